//! The UAPI header `include/uapi/linux/postbox.h` in Rust, under its C names.
//!
//! The header says what each struct, field and flag means. The layouts are checked at compile time.
#![allow(missing_docs, non_camel_case_types)]

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "generated: Default fills a struct of integers with zeros"
)]
mod bindings;

pub use bindings::*;
