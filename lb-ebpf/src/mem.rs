//! Frame and Tables in plain memory.
