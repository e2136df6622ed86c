//! The Python module.

mod aggregate;
mod errors;
mod event;
