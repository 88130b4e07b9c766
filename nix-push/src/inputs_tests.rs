use crate::digests::Digests;
use crate::inputs::Inputs;
use crate::recorder::Beginning;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

/// Why an evaluation that looked at this is not certain to be the same again.
fn why_not(said: &[&str]) -> String {
    let said: Vec<String> = said.iter().map(|line| line.to_string()).collect();
    let beginning = Beginning::now(std::iter::empty());
    format!("{:#}", Inputs::record(Some(&said), &[], &beginning, &Digests::default()).unwrap_err())
}

#[test]
fn what_cannot_be_looked_up_is_a_reason_to_evaluate_again() {
    for (line, why) in [
        ("copied source '/etc", "Nix copied something without a name"),
        (r#"["variable","HOME"]"#, "this Nix does not tell what it looks at"),
        ("nonsense", "cannot understand what Nix looked at: "),
        (r#"["odd"]"#, r#"cannot understand what Nix looked at: ["odd"]"#),
        (r#"["odd","/etc"]"#, "nobody can tell what changes in /etc"),
        (r#"["search",[{"path":1}],"nixpkgs",null]"#, r#"cannot understand an entry of Nix's search path: {"path":1}"#),
        (r#"["search",[["","https://x.org/a"]],"b",null]"#, "Nix's search path has https://x.org/a, which is no path"),
        (r#"["search",[["","/"]],"etc","/a/etc"]"#, "Nix did not find <etc> in /etc"),
        (r#"["search",[["","/"]],"nowhere","/nowhere"]"#, "<nowhere> is not where Nix found it"),
        (r#"["file","a"]"#, "a is no absolute path"),
        (r#"["file","/dev/null"]"#, "/dev/null is neither a file nor a folder"),
        (r#"["tree","/nowhere"]"#, "Nix copied /nowhere, which is not there"),
        (r#"["program","/sys"]"#, "/sys is on a file system whose times are not this computer's"),
        (r#"["file","/nowhere"]"#, "/nowhere was read, and is not there"),
        (r#"["folder","/nowhere"]"#, "/nowhere was read, and is not there"),
        (r#"["program","/nowhere"]"#, "/nowhere was run, and is not there"),
        (r#"["there","/nowhere"]"#, "/nowhere came or went"),
        (r#"["absent","/etc"]"#, "/etc came or went"),
    ] {
        let said = why_not(&[line]);
        assert!(said.starts_with(why), "{line}: {said}");
    }
}

#[test]
fn links_are_followed_as_far_as_they_lead_somewhere() {
    let folder = std::env::temp_dir().join(format!("inputs-test-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    symlink("round", folder.join("round")).unwrap();
    symlink(OsStr::from_bytes(b"\xff"), folder.join("odd")).unwrap();
    let look = |name: &str| why_not(&[&format!(r#"["file","{}/{name}"]"#, folder.display())]);
    let (round, odd) = (look("round"), look("odd"));
    fs::remove_dir_all(&folder).unwrap();
    assert!(round.ends_with("/round leads through too many links"), "{round}");
    assert!(odd.ends_with(" is no UTF-8"), "{odd}");
}
