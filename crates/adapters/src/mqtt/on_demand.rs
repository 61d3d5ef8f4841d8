//! Values that an idle client does without.

use std::ops::{Deref, DerefMut};

/// What there is without an allocation.
pub(super) trait Empty: Default + 'static {
    /// As [`Default::default`] makes it.
    const EMPTY: &'static Self;
}

/// A value that is allocated when it is first changed: until then, and once it is given back, it is empty and takes
/// a word. To look at it changes nothing, so a caller that would only remove something looks first.
#[derive(Clone, Debug)]
pub(super) struct OnDemand<T>(Option<Box<T>>);

impl<T> Default for OnDemand<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Empty> OnDemand<T> {
    /// Gives the memory back if the value is empty again.
    pub(super) fn give_back_if(&mut self, is_empty: impl FnOnce(&T) -> bool) {
        self.0.take_if(|value| is_empty(value));
    }

    /// Whether it takes more than a word.
    #[cfg(test)]
    pub(super) fn is_allocated(&self) -> bool {
        self.0.is_some()
    }
}

impl<T: Empty> Deref for OnDemand<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::EMPTY)
    }
}

impl<T: Empty> DerefMut for OnDemand<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T: Empty> From<T> for OnDemand<T> {
    fn from(value: T) -> Self {
        Self(Some(Box::new(value)))
    }
}
