//! The published ids of NixOS 14.04 to 23.11, compiled in: no network, no credentials.
//!
//! They are those of nixpkgs' `nixos/modules/virtualisation/amazon-ec2-amis.nix`, before it was
//! removed (NixOS/nixpkgs issue 361106), and of nix-community/terraform-nixos,
//! `aws_image_nixos/url_map.tf`, for those that nixpkgs replaced. Many are gone from EC2 by now.

use crate::images::Image;
use anyhow::{Context, Result};
use machine_record::Ami;
use serde::Deserialize;

/// A JSON list with one row a line, so that a look-up parses only the rows of its release.
const TABLE: &str = include_str!("../data/nixos-amis.json");

#[derive(Deserialize)]
struct Row {
    release: String,
    region: String,
    system: String,
    #[serde(rename = "type")]
    kind: String,
    ami: String,
    #[serde(default)]
    superseded: bool,
}

/// Whether the table knows the release.
pub fn has(release: &str) -> bool {
    rows_of(release).next().is_some()
}

/// The table's images of a release.
pub fn of_release(release: &str) -> Result<Vec<Image>> {
    rows_of(release).map(parse).collect()
}

/// All of the table, for error messages.
pub fn all() -> Result<Vec<Image>> {
    rows().map(parse).collect()
}

fn rows() -> impl Iterator<Item = &'static str> {
    TABLE.lines().map(|line| line.trim_end_matches(',')).filter(|line| line.starts_with('{'))
}

fn rows_of(release: &str) -> impl Iterator<Item = &'static str> {
    let start = format!("{{\"release\":{},", serde_json::Value::from(release));
    rows().filter(move |row| row.starts_with(&start))
}

fn parse(row: &str) -> Result<Image> {
    let row: Row = serde_json::from_str(row).context("the table of images is damaged")?;
    let ami = Ami {
        id: row.ami,
        name: None,
        release: row.release,
        region: row.region,
        system: row.system,
        kind: row.kind,
        creation_date: None,
        deprecation_time: None,
        source: "table".into(),
        boot_mode: None,
    };
    Ok(Image { ami, superseded: row.superseded })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{Question, candidates};
    use std::collections::HashSet;

    #[test]
    fn every_row_is_read_and_no_current_one_is_there_twice() {
        let whole: Vec<serde_json::Value> = serde_json::from_str(TABLE).unwrap();
        let images = all().unwrap();
        assert_eq!(images.len(), whole.len());
        let mut seen = HashSet::new();
        for Image { ami, superseded } in images {
            assert!(ami.id.starts_with("ami-"));
            assert!(superseded || seen.insert((ami.release, ami.region, ami.system, ami.kind)));
        }
    }

    #[test]
    fn a_row_that_lacks_something_is_damage() {
        assert_eq!(parse("{}").unwrap_err().to_string(), "the table of images is damaged");
    }

    #[test]
    fn the_tutorials_image_is_the_current_one_of_two() {
        let images = of_release("20.09").unwrap();
        let question = Question {
            release: "20.09".into(),
            region: "eu-central-1".into(),
            system: "x86_64-linux".into(),
            kind: "hvm-ebs".into(),
        };
        let ids: Vec<_> = candidates(&images, &question, "2026").iter().map(|image| &image.ami.id).collect();
        assert_eq!(ids, ["ami-0eed77c38432886d2", "ami-01d4a0c2248cbfe38"]);
    }

    #[test]
    fn a_release_is_known_whole_or_not_at_all() {
        assert!(has("20.09"));
        assert!(!has("20.0"));
        assert!(!has("latest"));
        assert!(!has("\""));
    }
}
