//! What an option is.

use super::Config;
use super::slot::{Range, Slot};

/// A flag of `tidings serve` that sets an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// `--long VALUE`.
    Value {
        /// The flag without its dashes.
        long: &'static str,
        /// What stands for the value in the help.
        name: &'static str,
    },
    /// `--long` alone, which gives this value.
    Word {
        /// The flag without its dashes.
        long: &'static str,
        /// The value.
        value: &'static str,
    },
}

impl Flag {
    /// The flag without its dashes.
    #[must_use]
    pub fn long(&self) -> &'static str {
        match self {
            Self::Value { long, .. } | Self::Word { long, .. } => long,
        }
    }
}

/// One option.
#[derive(Clone, Copy)]
pub struct OptionSpec {
    /// The dotted name: section and key in the file.
    pub key: &'static str,
    /// What it means, one sentence for users.
    pub doc: &'static str,
    /// Whether SIGHUP applies a new value.
    pub reloadable: bool,
    /// Flags that set it.
    pub flags: &'static [Flag],
    /// What a number may be.
    pub range: Range,
    /// The field that it sets.
    pub slot: for<'a> fn(&'a mut Config) -> Slot<'a>,
}

impl OptionSpec {
    /// The environment variable that sets it.
    #[must_use]
    pub fn env(&self) -> String {
        format!(
            "TIDINGS_{}",
            self.key.to_ascii_uppercase().replace('.', "_")
        )
    }

    /// The section and the key in it.
    #[must_use]
    pub fn section_and_name(&self) -> (&'static str, &'static str) {
        self.key.split_once('.').unwrap_or(("", self.key))
    }

    /// SIGHUP applies it.
    #[must_use]
    pub const fn reloadable(mut self) -> Self {
        self.reloadable = true;
        self
    }

    /// Flags set it.
    #[must_use]
    pub const fn flags(mut self, flags: &'static [Flag]) -> Self {
        self.flags = flags;
        self
    }

    /// What its number may be.
    #[must_use]
    pub const fn range(mut self, min: u64, max: u64) -> Self {
        self.range = Range { min, max };
        self
    }
}

/// An option without flags, that a restart applies.
#[must_use]
pub const fn option(
    key: &'static str,
    doc: &'static str,
    slot: for<'a> fn(&'a mut Config) -> Slot<'a>,
) -> OptionSpec {
    OptionSpec {
        key,
        doc,
        reloadable: false,
        flags: &[],
        range: Range {
            min: 1,
            max: i64::MAX as u64,
        },
        slot,
    }
}
