//! What else an evaluation tells of a system: what it lacks to come back, and where its paths are.

use machine_record::{Ami, Instance, Record, log};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Priority of an option's default (nixpkgs `lib/modules.nix`, `mkOptionDefault`).
const DEFAULT_PRIORITY: u64 = 1500;

/// The cache that every Nix knows, and its keys.
const EVERYBODYS: [&str; 2] = ["https://cache.nixos.org", "cache.nixos.org-"];

/// What the expression says in `about`; each member is null where this NixOS has no such thing.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct About(Value);

impl About {
    /// Warns of what would keep the machine from coming back after the switch.
    pub fn warn(&self, machine: &str, record: &Record) {
        for warning in self.warnings(record) {
            log::warning(machine, &warning);
        }
    }

    fn warnings(&self, record: &Record) -> Vec<String> {
        let says = |member: &str| self.0[member].as_bool();
        let import = "is <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> imported?";
        let mut warnings = Vec::new();
        if says("sshd") == Some(false) {
            warnings
                .push(format!("the configuration runs no ssh server: nobody can log in after the switch; {import}"));
        }
        if says("root") == Some(false) {
            warnings.push(format!("the configuration has no root file system: it cannot boot; {import}"));
        }
        let mode = record.section::<Ami>().ok().flatten().and_then(|ami| ami.boot_mode);
        match (mode.as_deref(), says("efi")) {
            (Some("uefi"), Some(false)) => {
                warnings.push("the image boots by UEFI and the configuration does not: say ec2.efi = true".into());
            }
            (Some("legacy-bios"), Some(true)) => {
                warnings.push("the image boots by BIOS and the configuration by UEFI: leave ec2.efi out".into());
            }
            _ => {}
        }
        if self.0["stateVersion"].as_u64().is_some_and(|priority| priority >= DEFAULT_PRIORITY) {
            warnings.push(
                "the configuration has no system.stateVersion: say the release that the machine's data was made with"
                    .into(),
            );
        }
        warnings
    }

    /// The system that the derivation is built on.
    pub fn system(&self) -> Option<&str> {
        self.0["system"].as_str()
    }

    /// The caches of the configuration and the keys that it trusts, as options of Nix. A key may be that of a cache
    /// which this Nix knows by itself.
    pub fn caches(&self) -> Vec<String> {
        // An option of its own is a list, one of the user's may be a text.
        let texts = |member: &str| match &self.0[member] {
            Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect::<Vec<_>>(),
        };
        let words = |members: [&str; 2]| -> Vec<&str> {
            let words = members.into_iter().flat_map(texts).flat_map(str::split_whitespace);
            words.filter(|word| !EVERYBODYS.iter().any(|start| word.starts_with(start))).collect()
        };
        let options = [
            ("extra-substituters", words(["substituters", "moreSubstituters"])),
            ("extra-trusted-public-keys", words(["keys", "moreKeys"])),
        ];
        let given = options.into_iter().filter(|(_, words)| !words.is_empty());
        given.flat_map(|(name, words)| ["--option".into(), name.into(), words.join(" ")]).collect()
    }
}

/// Warns where a machine is to build that has hardly the memory to.
pub fn warn_if_small(machine: &str, record: &Record) {
    let Ok(Some(instance)) = record.section::<Instance>() else { return };
    let Some(kind) = instance.kind else { return };
    if [".nano", ".micro"].iter().any(|size| kind.ends_with(size)) {
        log::warning(machine, &format!("{kind} has at most 1 GiB of memory: a build there may run out of it"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine_record::Records;
    use serde_json::json;

    fn warnings(about: Value, record: &str) -> Vec<String> {
        About(about).warnings(&Records::new(record.as_bytes()).read().unwrap().unwrap())
    }

    #[test]
    fn what_a_machine_lacks_is_said() {
        let good = json!({ "sshd": true, "root": true, "efi": false, "stateVersion": 100 });
        assert!(warnings(good, "{}").is_empty());
        assert!(warnings(json!({ "sshd": null }), "{}").is_empty(), "what is not known is no fault");
        let bad = json!({ "sshd": false, "root": false, "stateVersion": 1500 });
        let said = warnings(bad, "{}");
        for (said, words) in said.iter().zip([
            "the configuration runs no ssh server: nobody can log in after the switch",
            "the configuration has no root file system: it cannot boot; is <nixpkgs/",
            "the configuration has no system.stateVersion",
        ]) {
            assert!(said.starts_with(words), "{said}");
        }
        assert_eq!(said.len(), 3);
    }

    #[test]
    fn caches_of_the_configuration_are_used_with_their_keys() {
        let about = About(
            json!({ "substituters": ["https://c.example.org", "https://cache.nixos.org/"], "keys": ["k1", "k2"] }),
        );
        let options = [
            "--option",
            "extra-substituters",
            "https://c.example.org",
            "--option",
            "extra-trusted-public-keys",
            "k1 k2",
        ];
        assert_eq!(about.caches(), options);
        let more =
            json!({ "substituters": ["https://a"], "moreSubstituters": "https://b https://c", "moreKeys": ["k"] });
        assert_eq!(
            About(more).caches()[2..],
            ["https://a https://b https://c", "--option", "extra-trusted-public-keys", "k"]
        );
        // One may be that of a cache which this Nix knows.
        let mut usual = json!({ "substituters": ["https://cache.nixos.org/"], "keys": ["cache.nixos.org-1:x", "k"] });
        assert_eq!(About(usual.clone()).caches(), ["--option", "extra-trusted-public-keys", "k"]);
        usual["keys"] = json!(["cache.nixos.org-1:x"]);
        assert!(About(usual).caches().is_empty());
    }
}
