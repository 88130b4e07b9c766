//! The completions are asked by the shells themselves.

use crate::TOOLS;
use tests::{Folder, Ran};

/// Checks the syntax of each tool's completions with `check FILE`.
fn each(shell: &str, check: &str) -> Folder {
    let folder = Folder::new(&format!("completions-{shell}"));
    for (tool, _) in TOOLS {
        folder.sh(&format!("{tool} --completions {shell} > _{tool} && {check} _{tool}"), "").ok();
    }
    folder
}

#[track_caller]
fn offers(ran: Ran, wanted: &[&str]) {
    let offered: Vec<&str> = ran.stdout.split_whitespace().collect();
    for word in wanted {
        assert!(offered.contains(word), "{word} is not offered: {ran:?}");
    }
    assert!(!offered.contains(&"--plan"), "what does not fit is offered: {ran:?}");
}

#[test]
fn where_nobody_takes_them_that_is_no_bug() {
    let folder = Folder::new("completions-nowhere");
    let ran = folder.sh("keygen --completions bash > /dev/full", "");
    assert_eq!((ran.status, ran.stderr.as_str()), (1, "keygen: cannot write: No space left on device\n"));
    let ran = folder.sh("(sleep 0.5; nix-push --completions zsh) | true", "");
    assert_eq!(ran.stderr, "");
}

#[test]
fn bash_completes_options_and_values() {
    let folder = each("bash", "bash -n");
    let complete = |words: &str| {
        let script = format!(
            r#". ./_nix-push; COMP_WORDS=(nix-push {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
               _nix__push nix-push "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"
               printf '%s\n' "${{COMPREPLY[@]}}""#
        );
        folder.sh(&script, "").ok()
    };
    offers(complete("--build"), &["--build-on", "--builders"]);
    offers(complete("--build-on ''"), &["auto", "here", "machine"]);
}

#[test]
fn fish_completes_options_and_values() {
    let folder = each("fish", "fish --no-execute");
    let complete = |line: &str| folder.sh(&format!("fish -c 'source _nix-push; complete -C \"nix-push {line}\"'"), "");
    offers(complete("--build").ok(), &["--build-on", "--builders"]);
    offers(complete("--build-on ").ok(), &["auto", "here", "machine"]);
}

#[test]
fn zsh_completes_options_and_values() {
    let folder = each("zsh", "zsh -n");
    // zsh completes only where it edits: in a terminal of its own (zsh/zpty). $1 is typed, and $2 waited for.
    std::fs::write(
        folder.path().join("complete.zsh"),
        r#"zmodload zsh/zpty
           zpty shell 'zsh -f -i'
           zpty -w shell "PROMPT=; fpath=($PWD \$fpath); autoload -U compinit; compinit -u -D; echo rea''dy"
           zpty -r shell text '*ready*'
           zpty -n -w shell "nix-push $1"$'\t\t'
           while [[ $all != *$~2* ]]; do sleep 0.1; zpty -r -t shell text && all+=$text; done
           print -r -- "$all" | sed 's/\x1b\[[0-9;?]*[a-zA-Z]/ /g'
           zpty -d shell"#,
    )
    .unwrap();
    let complete = |line: &str, last: &str| {
        let script = format!("TERM=xterm timeout 60 zsh -f complete.zsh '{line}' '{last}' < /dev/null");
        folder.sh(&script, "").ok()
    };
    offers(complete("--build", "--build-on *--builders *"), &["--build-on", "--builders"]);
    offers(complete("--build-on ", "auto *machine *here "), &["auto", "machine", "here"]);
}
