//! `-h`, `--help` and the pages say the same.

use crate::TOOLS;
use std::collections::BTreeSet;
use tests::{Folder, project};

/// The long options of a help text.
fn options(help: &str) -> Vec<String> {
    help.lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
        .map(|word| word.trim_end_matches(',').trim_start_matches("--").split('=').next().unwrap().to_string())
        .collect()
}

#[test]
fn help_and_page_name_the_same_options() {
    let folder = Folder::new("options");
    for (tool, page) in TOOLS {
        let help = options(&folder.sh(&format!("{tool} --help"), "").ok().stdout);
        assert!(help.contains(&"plan".to_string()), "{tool}: {help:?}");
        let text = std::fs::read_to_string(project().join(page)).unwrap_or_else(|_| panic!("no page {page}"));
        let tagged: Vec<String> = text
            .lines()
            .filter(|line| line.starts_with(".It Fl "))
            .flat_map(|line| line.split_whitespace().filter(|word| word.starts_with('-')))
            .map(|word| word.trim_start_matches('-').to_string())
            .collect();
        for option in &help {
            assert!(tagged.contains(option), "{page} does not describe --{option}");
        }
        for option in &tagged {
            assert!(help.contains(option), "{page} describes --{option}, which {tool} does not have");
        }
    }
}

#[test]
fn flags_that_readme_and_nixpipe_7_name_are_some_tools() {
    let folder = Folder::new("flags");
    let help = |tool| options(&folder.sh(&format!("{tool} --help"), "").ok().stdout);
    let known: BTreeSet<String> = TOOLS.iter().flat_map(|(tool, _)| help(tool)).collect();
    let read = |page: &str| std::fs::read_to_string(project().join(page)).unwrap();
    let mut named = Vec::new();
    let (readme, page) = (read("README.md"), read("docs/nixpipe.7"));
    // What other programs call their flags are cargo's, and `Cm` in the tables.
    let texts = readme.lines().filter(|line| !line.contains("cargo install"));
    for line in texts.chain(page.lines().filter(|line| !line.starts_with(".It Cm"))) {
        let flags = match line.split_once("Fl ") {
            Some((_, flags)) if line.starts_with('.') => {
                flags.replace(" -", " --").replacen('-', "--", usize::from(flags.starts_with('-')))
            }
            _ => line.to_string(),
        };
        let words = flags.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let flags =
            words.filter_map(|word| word.strip_prefix("--").filter(|name| name.starts_with(char::is_alphabetic)));
        named.extend(flags.map(String::from));
    }
    assert!(named.len() > 60, "{named:?}");
    named.retain(|flag| !known.contains(flag));
    assert!(named.is_empty(), "no tool has {named:?}");
}

#[test]
fn h_fits_a_screen_of_80_columns_and_24_lines() {
    let folder = Folder::new("short-help");
    for (tool, _) in TOOLS {
        let short = folder.sh(&format!("COLUMNS=80 {tool} -h"), "").ok().stdout;
        let lines = short.lines().count();
        // The line of the prompt that follows, too.
        assert!(lines < 24, "{tool} -h has {lines} lines: mark what is rarely used with hide_short_help\n{short}");
        assert!(short.lines().all(|line| line.chars().count() <= 80), "{tool} -h is too wide\n{short}");
        assert!(short.contains("--plan") && short.contains("--help"), "{short}");
    }
}

#[test]
fn help_tells_input_output_and_examples() {
    let folder = Folder::new("help");
    for (tool, _) in TOOLS {
        let help = folder.sh(&format!("COLUMNS=80 {tool} --help"), "").ok().stdout;
        for word in ["\nInput:", "\nOutput:", "\nExamples:\n"] {
            assert!(help.contains(word), "{tool} --help lacks {word:?}\n{help}");
        }
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{tool} --help is too wide\n{help}");
    }
}
