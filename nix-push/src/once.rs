//! What several machines of a run want and one of them works out.

use anyhow::Result;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};

/// A value for each key, made by whoever comes first; who comes second waits.
pub struct Once<K, V>(Mutex<HashMap<K, Arc<Mutex<Option<V>>>>>);

impl<K, V> Default for Once<K, V> {
    fn default() -> Self {
        Once(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Once<K, V> {
    /// The value of `key`; the next one to ask makes it where `make` fails.
    pub fn get(&self, key: K, make: impl FnOnce() -> Result<V>) -> Result<V> {
        let one = lock(&self.0).entry(key).or_default().clone();
        let mut value = lock(&one);
        match &*value {
            Some(value) => Ok(value.clone()),
            None => Ok(value.insert(make()?).clone()),
        }
    }

    /// Gives `key` a value, in the place of the one that it has.
    pub fn set(&self, key: K, value: V) {
        let one = lock(&self.0).entry(key).or_default().clone();
        *lock(&one) = Some(value);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn what_failed_is_tried_again_and_what_is_made_stays() {
        let once: Once<&str, u32> = Once::default();
        assert!(once.get("a", || bail!("no")).is_err());
        assert_eq!(once.get("a", || Ok(1)).unwrap(), 1);
        assert_eq!(once.get("a", || bail!("not asked")).unwrap(), 1);
        assert_eq!(once.get("b", || Ok(2)).unwrap(), 2);
        once.set("b", 3);
        assert_eq!(once.get("b", || bail!("not asked")).unwrap(), 3);
    }
}
