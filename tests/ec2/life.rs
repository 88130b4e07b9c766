//! The life of machines: made once, changed in place, replaced only with a word, removed with what is theirs.

use crate::region::{DOWN, Region, UP};
use serde_json::Value;
use std::collections::BTreeSet;
use tests::sample;

#[test]
fn ten_at_once_make_one_machine() {
    let region = Region::new("ten", 5593);
    for _ in 0..sample(5, 2) {
        region.reset();
        region.cloud("fault late 0.7");
        let script = format!("for i in 1 2 3 4 5 6 7 8 9 10; do {UP} < web-1.json & done; wait");
        let records = region.sh(&script, "").ok().records();
        let ids: BTreeSet<_> = records.iter().map(|record| record["instance"]["id"].to_string()).collect();
        assert_eq!((records.len(), ids.len()), (10, 1), "{records:?}");
        assert_eq!(region.made("RunInstances", "i-").len(), 1);
        assert_eq!(region.made("CreateSecurityGroup", "sg-").len(), 1);
        region.cloud("fault clear");
        assert_eq!(region.sh("ec2-ls -q --orphans", "").ok().stdout, "");
    }
}

#[test]
fn up_after_down_makes_a_fresh_machine_and_the_tokens_of_old_ones_do_not_matter() {
    let region = Region::new("again", 5594);
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        let up = region.sh(&format!("{UP} < web-1.json"), "").ok().record();
        assert_eq!(up["instance"]["created"], true);
        assert!(ids.insert(up["instance"]["id"].to_string()));
        let down = region.sh(DOWN, &up.to_string()).ok().record();
        assert_eq!((down.get("instance"), down.get("ssh")), (None, None));
        let again = region.sh(DOWN, &up.to_string()).ok();
        assert_eq!(again.record().get("instance"), None);
    }
}

#[test]
fn what_cannot_change_in_place_needs_a_word_and_a_changed_image_never_does() {
    let region = Region::new("word", 5596);
    let first = region.sh(&format!("{UP} < web-1.json"), "").ok().record();
    let refused = region.sh(&format!("{UP} --instance-type t3.small < web-1.json"), "");
    let error = &refused.record()["error"];
    assert_eq!((refused.status, &error["kind"]), (1, &Value::from("conflict")));
    assert!(error["hint"].as_str().unwrap().contains("--stop-to-resize"));
    let resized = region.sh(&format!("{UP} --instance-type t3.small --stop-to-resize < web-1.json"), "").ok().record();
    assert_eq!(
        (&resized["instance"]["id"], &resized["instance"]["type"]),
        (&first["instance"]["id"], &Value::from("t3.small"))
    );
    // The Elastic IP outlives the stop.
    assert_eq!(resized["instance"]["publicIp"], first["instance"]["publicIp"]);

    let newer = region.sh("jq -c '.ami.id = \"ami-0072c85c2e836d622\"' web-1.json", "").ok().stdout;
    let kept = region.sh(&format!("{UP} --replace"), &newer).ok().record();
    assert_eq!(kept["instance"]["id"], first["instance"]["id"]);

    let refused = region.sh(&format!("{UP} --spot < web-1.json"), "").record();
    assert!(refused["error"]["hint"].as_str().unwrap().contains("--replace"), "{refused}");
    let replaced = region.sh(&format!("{UP} --spot --replace < web-1.json"), "").ok().record();
    assert_ne!(replaced["instance"]["id"], first["instance"]["id"]);
    assert_eq!(replaced["instance"]["created"], true);
    assert_eq!(region.sh("ec2-ls -q", "").ok().records().len(), 1);
}

#[test]
fn machines_that_share_a_key_pair_leave_it_to_the_last() {
    let region = Region::new("shared", 5599);
    region.sh(&format!("(cat web-1.json; jq -c '.name = \"web-2\"' web-1.json) | {UP} > both.json"), "").ok();
    assert_eq!(region.count("ImportKeyPair"), 1);
    region.sh(&format!("head -1 both.json | {DOWN}"), "").ok();
    assert_eq!(region.count("DeleteKeyPair"), 0);
    region.sh(&format!("{DOWN} -n --all"), "").ok();
    assert_eq!(region.count("DeleteKeyPair"), 1);
    assert_eq!(region.sh("ec2-ls -q --orphans", "").ok().stdout, "");
}

#[test]
fn a_run_that_is_killed_is_completed_by_the_next() {
    let region = Region::new("killed", 5609);
    let moments = sample(20, 6);
    for number in 0..moments {
        region.reset();
        let seconds = 0.02 + 0.6 * number as f64 / moments as f64;
        let killed = |tool: &str, file: &str| region.sh(&format!("timeout -s KILL {seconds} {tool} < {file}"), "");
        killed(UP, "web-1.json");
        region.sh(&format!("{UP} < web-1.json > up.json"), "").ok();
        assert_eq!(region.made("RunInstances", "i-").len(), 1, "up, killed after {seconds} s");
        assert_eq!(region.made("CreateSecurityGroup", "sg-").len(), 1, "up, killed after {seconds} s");
        assert_eq!(region.made("AllocateAddress", "eipalloc-").len(), 1, "up, killed after {seconds} s");
        killed(DOWN, "up.json");
        region.sh(&format!("{DOWN} < up.json"), "").ok();
        assert_eq!(region.sh("ec2-ls -q; ec2-ls -q --orphans", "").ok().stdout, "", "down, killed after {seconds} s");
    }
}
