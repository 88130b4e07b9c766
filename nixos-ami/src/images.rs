//! Which image answers a question, and what to say when none does.

use machine_record::{Ami, Failure, Kind};
use std::collections::BTreeSet;

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// `25.11`, or `latest`
    pub release: String,
    pub region: String,
    /// `x86_64-linux`
    pub system: String,
    /// `hvm-ebs`
    pub kind: String,
}

/// An image that a source knows.
#[derive(Clone, Debug)]
pub struct Image {
    pub ami: Ami,
    /// A later publication of the same release took its place
    pub superseded: bool,
}

/// The release for which the newest one stands.
pub const LATEST: &str = "latest";

/// Lists the images that answer the question, the one to take first.
///
/// Of several publications of a release the current one is taken; then one that is not deprecated,
/// since the publisher deletes the others soon; then the newest.
pub fn candidates<'a>(images: &'a [Image], question: &Question, now: &str) -> Vec<&'a Image> {
    let fits = |image: &&Image| {
        image.ami.region == question.region && image.ami.system == question.system && image.ami.kind == question.kind
    };
    let release = match question.release.as_str() {
        LATEST => images.iter().filter(fits).map(|image| image.ami.release.as_str()).max_by_key(|r| months(r)),
        release => Some(release),
    };
    let mut found: Vec<&Image> =
        images.iter().filter(fits).filter(|image| Some(image.ami.release.as_str()) == release).collect();
    found.sort_by(|a, b| {
        let rank = |image: &Image| (image.superseded, is_deprecated(&image.ami, now));
        // The id decides between equals, so that two runs never differ.
        rank(a).cmp(&rank(b)).then(b.ami.creation_date.cmp(&a.ami.creation_date)).then(a.ami.id.cmp(&b.ami.id))
    });
    found
}

/// Whether the publisher has said that the image is not to be used any more.
///
/// RFC 3339 in UTC, as EC2 writes it, sorts as text.
pub fn is_deprecated(ami: &Ami, now: &str) -> bool {
    ami.deprecation_time.as_deref().is_some_and(|time| time <= now)
}

/// Reads release and system out of an image's name; `None` for betas, pre-releases and other images.
///
/// Names are `nixos/25.11.1240.2fad6eac6077-x86_64-linux`, the legacy account's
/// `NixOS-23.05.555.52869451b83-x86_64-linux` (github.com/NixOS/amis, upload-ami; nixpkgs,
/// `nixos/maintainers/scripts/ec2/create-amis.sh`). A pre-release has a label such as
/// `26.11pre903221.c8cd81426f45`.
pub fn parse_name(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix("nixos/").or_else(|| name.strip_prefix("NixOS-"))?;
    let release = rest.get(..5)?;
    months(release)?;
    let label = rest.get(5..)?;
    if !label.starts_with('.') {
        return None;
    }
    let system = ["x86_64-linux", "aarch64-linux"].into_iter().find(|system| label.contains(&format!("-{system}")))?;
    Some((release, system))
}

/// Whether releases are called so.
pub fn is_release(text: &str) -> bool {
    text == LATEST || months(text).is_some()
}

/// A release as a number of months, so that releases can be compared; `None` for anything else.
fn months(release: &str) -> Option<u32> {
    let (year, month) = release.split_once('.')?;
    if year.len() != 2 || month.len() != 2 {
        return None;
    }
    Some(year.parse::<u32>().ok()? * 12 + month.parse::<u32>().ok()?)
}

/// Says which part of the question no image has, and what exists, nearest first.
///
/// `source` is the one that was asked, such as `the table`.
pub fn explain(images: &[Image], question: &Question, source: &str) -> Failure {
    type Part = (&'static str, fn(&Ami) -> &str, fn(&Question) -> &str);
    let parts: [Part; 4] = [
        ("", |ami| &ami.release, |question| &question.release),
        (" in ", |ami| &ami.region, |question| &question.region),
        (" for ", |ami| &ami.system, |question| &question.system),
        (" of type ", |ami| &ami.kind, |question| &question.kind),
    ];
    let mut left: Vec<&Ami> = images.iter().map(|image| &image.ami).collect();
    let mut message = format!("{source} has no image of NixOS ");
    for (word, of, wanted) in parts {
        let wanted = wanted(question);
        message = message + word + wanted;
        let fits = |ami: &Ami| of(ami) == wanted || (word.is_empty() && wanted == LATEST);
        if !left.iter().any(|ami| fits(ami)) {
            let known = nearest(left.iter().map(|ami| of(ami)).collect(), wanted);
            if !known.is_empty() {
                message += &format!(": there are {}", known.join(", "));
            }
            break;
        }
        left.retain(|ami| fits(ami));
    }
    Failure::new(Kind::NotFound, message)
        .hint("take one that there is, or ask elsewhere with --source; --list shows all")
}

/// Sorts words by how near they are to the one that was asked for.
pub fn nearest<'a>(known: BTreeSet<&'a str>, wanted: &str) -> Vec<&'a str> {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_by_key(|word| match (months(word), months(wanted)) {
        (Some(a), Some(b)) => a.abs_diff(b) as usize,
        _ => distance(word, wanted),
    });
    known
}

/// How many letters have to be added, dropped or changed to make one word from another.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for j in 0..b.len() {
            let change = diagonal + usize::from(letter != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-24T00:00:00.000Z";

    fn image(release: &str, created: &str, deprecated: &str) -> Image {
        let ami = Ami {
            id: format!("ami-{release}-{created}"),
            name: None,
            release: release.into(),
            region: "eu-central-1".into(),
            system: "x86_64-linux".into(),
            kind: "hvm-ebs".into(),
            creation_date: Some(created.into()),
            deprecation_time: Some(deprecated.into()),
            source: "ec2".into(),
            boot_mode: None,
        };
        Image { ami, superseded: false }
    }

    fn question(release: &str) -> Question {
        Question {
            release: release.into(),
            region: "eu-central-1".into(),
            system: "x86_64-linux".into(),
            kind: "hvm-ebs".into(),
        }
    }

    #[test]
    fn the_newest_that_is_not_deprecated_is_taken() {
        let images = [
            image("25.11", "2026-01-01", "2099"),
            image("25.11", "2026-03-01", "2026-04"),
            image("25.11", "2026-02-01", "2099"),
            image("25.05", "2026-05-01", "2099"),
        ];
        let found = candidates(&images, &question("25.11"), NOW);
        let dates: Vec<_> = found.iter().filter_map(|image| image.ami.creation_date.as_deref()).collect();
        assert_eq!(dates, ["2026-02-01", "2026-01-01", "2026-03-01"]);
    }

    #[test]
    fn a_superseded_image_comes_last_however_new() {
        let mut images = [image("20.09", "2", "2099"), image("20.09", "1", "2099")];
        images[0].superseded = true;
        assert_eq!(candidates(&images, &question("20.09"), NOW)[0].ami.id, "ami-20.09-1");
    }

    #[test]
    fn releases_have_a_form() {
        for (text, good) in [("25.11", true), ("latest", true), ("25.1", false), ("nixos-25.11", false), ("*", false)] {
            assert_eq!(is_release(text), good, "{text}");
        }
    }

    #[test]
    fn latest_is_the_newest_release_not_the_newest_image() {
        let images = [image("25.11", "2026-11-01", "2099"), image("26.05", "2026-10-01", "2099")];
        assert_eq!(candidates(&images, &question(LATEST), NOW)[0].ami.release, "26.05");
    }

    #[test]
    fn names_give_release_and_system_but_not_those_of_pre_releases() {
        assert_eq!(parse_name("nixos/25.11.1240.2fad6eac6077-x86_64-linux"), Some(("25.11", "x86_64-linux")));
        assert_eq!(parse_name("nixos/25.11.1.2-aarch64-linux.17"), Some(("25.11", "aarch64-linux")));
        assert_eq!(parse_name("NixOS-23.05.555.52869451b83-aarch64-linux"), Some(("23.05", "aarch64-linux")));
        for name in [
            "nixos/26.11beta41.4b8a3e5ddcf2-x86_64-linux",
            "nixos/26.11pre903221.c8cd81426f45-x86_64-linux",
            "nixos-20.09pre-git-6-x86_64-hvm-ebs",
            "smoketest/25.11.1.2-x86_64-linux",
            "nixos/25.11.1.2-riscv64-linux",
            "nixos/25.1",
            "nixos/éé.11.1-x86_64-linux",
        ] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }

    #[test]
    fn an_unknown_part_is_named_with_what_exists_nearest_first() {
        let images = [
            image("19.03", "1", "2099"),
            image("23.11", "1", "2099"),
            image("25.05", "1", "2099"),
            image("25.11", "1", "2099"),
        ];
        let failure = explain(&images, &question("25.10"), "the table");
        assert_eq!(failure.message, "the table has no image of NixOS 25.10: there are 25.11, 25.05, 23.11, 19.03");
        assert_eq!(failure.kind, Kind::NotFound);
        let mut elsewhere = question("25.11");
        elsewhere.region = "eu-centrall-1".into();
        let failure = explain(&images, &elsewhere, "the table");
        assert_eq!(failure.message, "the table has no image of NixOS 25.11 in eu-centrall-1: there are eu-central-1");
    }

    #[test]
    fn words_are_near_by_their_letters() {
        let known = ["us-east-1", "eu-west-1", "eu-central-1"].into();
        assert_eq!(nearest(known, "eu-centrl-1")[0], "eu-central-1");
    }
}
