//! Opens an event store by its connection string.
