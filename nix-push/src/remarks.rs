//! What Nix says of a configuration, among what it says of its own doing.

/// How a remark begins: newer Nix has warnings of a configuration beside its own.
const REMARKS: [&str; 3] = ["warning:", "trace:", "evaluation warning:"];

/// How a line begins that says what Nix does meanwhile, for what an evaluation reads of a derivation. What follows
/// the first is what the builder says.
const DOES: [&str; 3] = ["building '", "copying path", "downloading '"];

/// Warnings and traces, with all their lines: they are true whenever the evaluation comes to the same.
pub fn remarks(stderr: &[String]) -> Vec<String> {
    let begins = |line: &str, starts: &[&str]| starts.iter().any(|start| line.starts_with(start));
    let mut within = false;
    let remarks = stderr.iter().filter(|line| {
        within = begins(line, &REMARKS) || within && !begins(line, &DOES) && !is_list(line);
        within
    });
    remarks.cloned().collect()
}

/// Whether a line is one of a list of what is to be built or fetched, or the headline.
pub fn is_list(line: &str) -> bool {
    let listed = line.starts_with("  /nix/store/") || [" built:", " fetched:"].iter().any(|end| line.ends_with(end));
    listed || line.contains(" will be fetched (")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nix_does_is_no_remark() {
        let said = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
        let stderr = "this derivation will be built:\n  /nix/store/x-a.drv\nbuilding '/nix/store/x-a.drv'...\nhello\ntrace: warning: two\nlines\n\
                      copying path '/nix/store/x-b' from 'https://c'...\nwarning: one\nevaluation warning: old\nthese 2 paths will be fetched (1 MiB download):";
        let kept = "trace: warning: two\nlines\nwarning: one\nevaluation warning: old";
        assert_eq!(remarks(&said(stderr)), said(kept));
    }
}
