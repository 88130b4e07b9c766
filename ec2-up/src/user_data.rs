//! User data of the user's own (`--user-data`).

use machine_record::{Failure, Kind};
use std::path::Path;

/// EC2 takes no more (EC2 user guide, "User data"), in bytes.
const LONGEST: usize = 16384;

/// Reads user data: a script and nothing else.
///
/// A Nix expression would be built by the machine itself at every boot (nixpkgs,
/// `nixos/modules/virtualisation/amazon-init.nix`), which would undo what was pushed.
pub fn read(file: &Path) -> Result<String, Failure> {
    let wrong = |what: String| {
        Failure::new(Kind::Input, format!("cannot use the user data {}: {what}", file.display()))
            .hint(format!("it is a script of up to {LONGEST} bytes"))
    };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    if !text.starts_with("#!") {
        return Err(wrong("it is not a script that begins with #!".into())
            .hint("a NixOS configuration there would undo every push at the next boot: give it to nix-push"));
    }
    if text.len() > LONGEST {
        return Err(wrong(format!("it has more than {LONGEST} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_script_is_taken() {
        let file = std::env::temp_dir().join(format!("nixpipe-user-data-{}", std::process::id()));
        for (text, good) in [
            ("#!/bin/sh\necho hello\n", true),
            ("{ pkgs, ... }: { }\n", false),
            ("# a NixOS configuration\n{ }\n", false),
            ("### https://example.org/channel nixos\n{ }", false),
            ("#cloud-config\n", false),
            ("", false),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(read(&file).is_ok(), good, "{text}");
        }
        std::fs::write(&file, format!("#!{}", "x".repeat(LONGEST))).unwrap();
        assert!(read(&file).unwrap_err().message.contains("16384"));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read(&file).unwrap_err().kind, Kind::Input);
    }
}
