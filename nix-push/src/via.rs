//! A binary cache between this computer and the machines: written once, read by each of them.

use crate::nix;
use crate::sign::Signer;
use crate::source::escape;
use anyhow::Result;
use machine_record::{Failure, Kind, StorePath, log};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A cache that Nix can write to, and what this run has put there.
pub struct Via {
    url: String,
    uploads: Mutex<HashMap<StorePath, Upload>>,
}

/// Equal closures of several machines are uploaded once; whoever comes second waits.
type Upload = Arc<Mutex<Option<Result<(), Failure>>>>;

impl Via {
    pub fn new(url: String) -> Via {
        Via { url, uploads: Mutex::default() }
    }

    /// Sees that the closure of `root` is in the cache.
    ///
    /// # Errors
    /// Kind `copy`.
    pub fn upload(&self, machine: &str, root: &StorePath, signer: Option<&Signer>) -> Result<()> {
        let one = {
            let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
            uploads.entry(root.clone()).or_default().clone()
        };
        let mut done = one.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match &*done {
            Some(result) => result.clone(),
            None => done.insert(self.write(machine, root, signer)?).clone(),
        };
        Ok(result?)
    }

    fn write(&self, machine: &str, root: &StorePath, signer: Option<&Signer>) -> Result<Result<(), Failure>> {
        log::event(machine, &format!("writing {root} to {}", self.url));
        let _step = log::step(machine, "writing to the cache");
        let url = self.signing(signer);
        let mut arguments: Vec<String> =
            ["copy", "--extra-experimental-features", "nix-command", "--to", &url].map(String::from).to_vec();
        if root.name().ends_with(".drv") {
            arguments.push("--derivation".into());
        }
        arguments.push(root.to_string());
        let outcome = nix::run(machine, "nix", &arguments, String::new())?;
        Ok(if outcome.success {
            Ok(())
        } else {
            Err(Failure::new(Kind::Copy, format!("cannot write to {}: {}", self.url, outcome.error()))
                .hint(format!("may you write there? nix copy --to {} PATH does the same", self.url)))
        })
    }

    /// The URL with the name of the key's file, by which Nix signs what it writes.
    fn signing(&self, signer: Option<&Signer>) -> String {
        let Some(signer) = signer else { return self.url.clone() };
        let joint = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{joint}secret-key={}", self.url, escape(&signer.file))
    }

    /// What the machine's Nix is told to fetch from there.
    pub fn options(&self, signer: Option<&Signer>) -> Vec<String> {
        let keys = signer.map(|signer| ["extra-trusted-public-keys".into(), signer.public_key()]);
        let pairs = [
            ["extra-substituters".into(), self.url.clone()],
            // What the cache did not have a moment ago it has now.
            ["narinfo-cache-negative-ttl".into(), "0".into()],
        ];
        pairs.into_iter().chain(keys).flat_map(|[name, value]| ["--option".into(), name, value]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_told_of_the_cache() {
        let options = Via::new("s3://bucket?region=eu-central-1".into()).options(None);
        assert_eq!(options[..3], ["--option", "extra-substituters", "s3://bucket?region=eu-central-1"]);
        assert_eq!(Via::new("file:///c".into()).signing(None), "file:///c");
    }
}
