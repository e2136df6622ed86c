//! Scavenging: the space of what was deleted is given back, and nobody notices anything else.

mod damaged;
mod given_back;
mod meanwhile;
mod underneath;
