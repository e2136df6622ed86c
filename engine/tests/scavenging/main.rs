//! Scavenging: the space of what was deleted is given back, and nobody notices anything else.

mod again;
mod damaged;
mod given_back;
mod meanwhile;
mod underneath;
