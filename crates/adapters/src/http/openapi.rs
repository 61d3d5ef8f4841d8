//! The description of this interface, kept by hand.

/// A document of `OpenAPI` 3.1. A test routes every path and method of it, and finds every route in it.
pub const OPENAPI: &[u8] = include_bytes!("openapi.json");

#[cfg(test)]
#[path = "openapi_tests.rs"]
mod tests;
