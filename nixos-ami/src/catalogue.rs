//! Images from a saved copy of the catalogue that the NixOS/amis project publishes
//! (nixos.github.io/amis/images.json): `{region: {"Images": [rows of describe-images]}}`.

use crate::images::{Image, parse_name};
use anyhow::{Context, Result};
use machine_record::{Ami, WithHint, WithKind};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Region {
    images: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    image_id: String,
    name: Option<String>,
    owner_id: Option<String>,
    state: Option<String>,
    virtualization_type: Option<String>,
    root_device_type: Option<String>,
    creation_date: Option<String>,
    deprecation_time: Option<String>,
    boot_mode: Option<String>,
}

const WHAT: &str = "it is the images.json of the NixOS images: {REGION: {\"Images\": […]}}";

/// Reads the images of the owners, of all regions.
pub fn read(file: &Path, owners: &[String]) -> Result<Vec<Image>> {
    let text = std::fs::read(file)
        .with_context(|| format!("cannot read the catalogue {}", file.display()))
        .with_kind(machine_record::Kind::Input)
        .with_hint(WHAT)?;
    parse(&text, owners)
        .with_context(|| format!("cannot use the catalogue {}", file.display()))
        .with_kind(machine_record::Kind::Input)
        .with_hint(WHAT)
}

fn parse(text: &[u8], owners: &[String]) -> Result<Vec<Image>> {
    let regions: BTreeMap<String, Region> = serde_json::from_slice(text)?;
    let mut images = Vec::new();
    for (region, Region { images: rows }) in regions {
        for row in rows {
            let owned = row.owner_id.as_ref().is_none_or(|owner| owners.contains(owner));
            let available = row.state.as_deref().is_none_or(|state| state == "available");
            let Some((release, system)) = row.name.as_deref().and_then(parse_name) else { continue };
            if !owned || !available {
                continue;
            }
            let ami = Ami {
                release: release.into(),
                system: system.into(),
                kind: kind(row.virtualization_type.as_deref(), row.root_device_type.as_deref()),
                id: row.image_id,
                region: region.clone(),
                creation_date: row.creation_date,
                deprecation_time: row.deprecation_time,
                source: "catalogue".into(),
                boot_mode: row.boot_mode,
                name: row.name,
            };
            images.push(Image { ami, superseded: false });
        }
    }
    Ok(images)
}

/// Names the kind of image as the table does, from EC2's words; a row without them is of today's kind.
pub fn kind(virtualization: Option<&str>, root_device: Option<&str>) -> String {
    let virtualization = if virtualization == Some("paravirtual") { "pv" } else { "hvm" };
    let root = if root_device == Some("instance-store") { "s3" } else { "ebs" };
    format!("{virtualization}-{root}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_strangers_and_pre_releases_are_left_out() {
        let text = br#"{"eu-west-3":{"Images":[
            {"ImageId":"ami-1","Name":"nixos/25.11.1.abc-x86_64-linux","OwnerId":"427812963091","State":"available",
             "VirtualizationType":"hvm","RootDeviceType":"ebs","CreationDate":"2026-01-01T00:00:00.000Z","BootMode":"uefi"},
            {"ImageId":"ami-2","Name":"nixos/25.11.2.abc-x86_64-linux","OwnerId":"1"},
            {"ImageId":"ami-3","Name":"nixos/26.11pre1.abc-x86_64-linux","OwnerId":"427812963091"},
            {"ImageId":"ami-4","Name":"nixos/25.11.3.abc-x86_64-linux","OwnerId":"427812963091","State":"pending"}]}}"#;
        let images = parse(text, &["427812963091".into()]).unwrap();
        assert_eq!(images.len(), 1);
        let ami = &images[0].ami;
        assert_eq!((ami.id.as_str(), ami.region.as_str(), ami.kind.as_str()), ("ami-1", "eu-west-3", "hvm-ebs"));
        assert_eq!(ami.boot_mode.as_deref(), Some("uefi"));
    }

    #[test]
    fn what_is_no_catalogue_is_refused() {
        assert!(parse(b"[]", &[]).is_err());
        assert!(parse(br#"{"eu-west-3":[]}"#, &[]).is_err());
    }
}
