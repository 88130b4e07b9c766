//! The question for a password, on a terminal that other tools share.

use crate::screen::terminal;
use tests::Folder;

#[test]
fn one_tool_asks_at_a_time_and_again_below_what_others_print_and_ctrl_c_ends_all() {
    let folder = Folder::new("asks");
    // A tool that was stopped while it drew its line holds the lock of the drawing ones; keygen prints over the question.
    let script = "at=$(tty); flock $at sleep 600 & sleep 0.5
        { sleep 8; keygen -n --name db-1 --file no/such/folder; sleep 600; } |
        nix-push --elevate sudo --ask-elevate-password a.nix | nixos-switch --elevate sudo --ask-elevate-password > out";
    // Ctrl-C is typed at the question that stands below keygen's lines.
    let screen = terminal(&folder, 80, &[], script, "\n\r\x1b[Knix");
    assert_eq!(screen.status, 130, "{}", screen.raw);
    let asked: Vec<_> = screen.seen.iter().filter(|row| row.contains("password for sudo")).collect();
    assert!(asked.len() > 1 && asked.iter().all(|row| *row == asked[0]), "{asked:#?}");
    assert_eq!(asked[0].matches("password").count(), 1, "{asked:#?}");
    assert!(screen.rows().iter().any(|row| row.starts_with("keygen: db-1: cannot write")), "{:#?}", screen.rows());
    screen.is_left_whole();
}
