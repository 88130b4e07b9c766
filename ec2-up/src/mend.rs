//! Makes a machine that exists as it is wished: in place, by a restart, or by a new one.

use crate::compare::{Difference, Mend};
use crate::region::Region;
use crate::wish::Imds;
use crate::{credits, group, instance, tags};
use aws_sdk_ec2::types::{AttributeValue, HttpTokensState, Instance};
use machine_record::{Failure, Kind, log};
use std::rc::Rc;

/// What the user allows beside changes in place.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Allowed {
    /// Replace a machine that cannot be changed as wished
    #[arg(long)]
    pub replace: bool,

    /// Stop and start a machine to change its type
    #[arg(long, hide_short_help = true)]
    pub stop_to_resize: bool,

    /// Take over a machine or group of that name that ec2-up has not made
    #[arg(long, hide_short_help = true)]
    pub adopt: bool,
}

impl Allowed {
    /// Refuses what is not allowed, before anything is done.
    pub fn check(self, id: &str, differences: &[Difference]) -> Result<(), Failure> {
        let refused = |difference: &&Difference| match difference.mend {
            Mend::Replace => !self.replace,
            Mend::Resize(_) => !self.stop_to_resize && !self.replaces(differences),
            _ => false,
        };
        let refused: Vec<&Difference> = differences.iter().filter(refused).collect();
        if refused.is_empty() {
            return Ok(());
        }
        let words: Vec<String> = refused.iter().map(|difference| difference.words()).collect();
        let flag = if refused.iter().any(|d| d.mend == Mend::Replace) { "--replace" } else { "--stop-to-resize" };
        // Nobody who takes a machine over wants it to be gone.
        let hint = match flag {
            "--replace" if self.adopt => {
                "leave that wish out; keyPair.name is to be the name that EC2 has, or keyPair is to be left out".into()
            }
            flag => format!("leave that wish out, or say {flag}"),
        };
        Err(Failure::new(Kind::Conflict, format!("{id} is not as wished: {}", words.join("; "))).hint(hint))
    }

    /// Whether the machine is to be replaced.
    pub fn replaces(self, differences: &[Difference]) -> bool {
        self.replace && differences.iter().any(|difference| difference.mend == Mend::Replace)
    }
}

/// Makes the changes, and gives the machine as it is then, running or about to be.
pub async fn mend(
    region: &Region,
    machine: &str,
    found: &Rc<Instance>,
    differences: &[Difference],
) -> Result<Rc<Instance>, Failure> {
    let id = found.instance_id().unwrap_or_default();
    let mut resize = None;
    let mut done = Vec::new();
    for difference in differences.iter().filter(|difference| difference.mend != Mend::Tolerate) {
        log::event(machine, &format!("changing {id}: {}", difference.words()));
        match &difference.mend {
            Mend::Resize(kind) => resize = Some(kind),
            // Size and type of a volume change together.
            mend if done.contains(&mend) => {}
            mend => {
                in_place(region, machine, found, difference).await?;
                done.push(mend);
            }
        }
    }
    let mut state = instance::state(found).to_string();
    if let Some(kind) = resize {
        stop(region, machine, id).await?;
        set_type(region, machine, id, kind).await?;
        state = "stopped".into();
    }
    if state == "stopping" {
        log::event(machine, &format!("{id} is stopping: waiting, then starting it"));
        instance::wait(region, id, "stopped").await?;
    }
    if matches!(state.as_str(), "stopping" | "stopped") {
        log::event(machine, &format!("starting {id}"));
        let started =
            region.aws.call(machine, "StartInstances", id, |client| client.start_instances().instance_ids(id).send());
        started.await.map_err(|error| error.failure(format!("cannot start {id}")))?;
        return instance::wait(region, id, "running").await;
    }
    let changed = differences.iter().any(|difference| difference.mend != Mend::Tolerate);
    log::event(machine, &format!("{id} is {state}{}", if changed { "" } else { ": nothing to make" }));
    Ok(found.clone())
}

async fn in_place(region: &Region, machine: &str, found: &Instance, difference: &Difference) -> Result<(), Failure> {
    let id = found.instance_id().unwrap_or_default();
    let failed = |error: crate::call_error::CallError| error.failure(format!("cannot change the {}", difference.what));
    match &difference.mend {
        Mend::Tags(tags) => {
            let (list, parts) = (tags::list(tags), parts(region, machine, found)?);
            let what = parts.join(" ");
            let call = region.aws.call(machine, "CreateTags", &what, |client| {
                client.create_tags().set_resources(Some(parts.clone())).set_tags(Some(list.clone())).send()
            });
            call.await.map(drop).map_err(failed)
        }
        Mend::Volume(change) => change.make(region, machine).await,
        Mend::Imds(imds) => {
            let tokens = match imds {
                Imds::Required => HttpTokensState::Required,
                Imds::Optional => HttpTokensState::Optional,
            };
            let call = region.aws.call(machine, "ModifyInstanceMetadataOptions", id, |client| {
                client.modify_instance_metadata_options().instance_id(id).http_tokens(tokens.clone()).send()
            });
            call.await.map(drop).map_err(failed)
        }
        Mend::Credits(wish) => credits::set(region, machine, id, *wish).await,
        Mend::Groups(groups) => {
            let call = region.aws.call(machine, "ModifyInstanceAttribute", id, |client| {
                client.modify_instance_attribute().instance_id(id).set_groups(Some(groups.clone())).send()
            });
            call.await.map(drop).map_err(failed)
        }
        Mend::Resize(_) | Mend::Replace | Mend::Tolerate => Ok(()),
    }
}

/// The machine and what goes with it: all of them bear its tags.
fn parts(region: &Region, machine: &str, found: &Instance) -> Result<Vec<String>, Failure> {
    let volumes = found.block_device_mappings().iter().filter_map(|mapping| mapping.ebs()?.volume_id());
    let interfaces = found.network_interfaces().iter().filter_map(|interface| interface.network_interface_id());
    let mut parts: Vec<String> =
        found.instance_id().into_iter().chain(volumes).chain(interfaces).map(String::from).collect();
    parts.extend(group::own(region, machine, found)?);
    Ok(parts)
}

async fn stop(region: &Region, machine: &str, id: &str) -> Result<(), Failure> {
    log::event(machine, &format!("stopping {id}"));
    let stopped =
        region.aws.call(machine, "StopInstances", id, |client| client.stop_instances().instance_ids(id).send());
    stopped.await.map_err(|error| {
        let failure = error.failure(format!("cannot stop {id}"));
        match error.is(&["OperationNotPermitted"]) {
            true => failure.hint("it is protected: take the stop protection off first, if it may really stop"),
            false => failure,
        }
    })?;
    instance::wait(region, id, "stopped").await.map(drop)
}

async fn set_type(region: &Region, machine: &str, id: &str, kind: &str) -> Result<(), Failure> {
    let value = AttributeValue::builder().value(kind).build();
    let set = region.aws.call(machine, "ModifyInstanceAttribute", id, |client| {
        client.modify_instance_attribute().instance_id(id).instance_type(value.clone()).send()
    });
    set.await.map(drop).map_err(|error| {
        let failure = error.failure(format!("cannot make {id} a {kind}"));
        let first = failure.hint.clone().map(|hint| hint + "; ").unwrap_or_default();
        failure.hint(format!("{first}it is stopped: run ec2-up again to start it"))
    })
}

/// Terminates a machine that is to be replaced, and waits until it is gone.
pub async fn remove(region: &Region, machine: &str, id: &str, differences: &[Difference]) -> Result<(), Failure> {
    let words: Vec<String> =
        differences.iter().filter(|d| d.mend == Mend::Replace).map(|difference| difference.words()).collect();
    log::event(machine, &format!("replacing {id}: {}", words.join("; ")));
    instance::terminate(region, machine, id).await?;
    instance::wait_gone(region, &[id.to_string()]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(mend: Mend) -> Difference {
        Difference { what: "x", have: "1".into(), want: "2".into(), mend }
    }

    #[test]
    fn a_machine_is_stopped_or_replaced_only_where_the_user_said_so() {
        let none = Allowed { replace: false, stop_to_resize: false, adopt: false };
        let resize = [difference(Mend::Resize("t3.small".into()))];
        let failure = none.check("i-1", &resize).unwrap_err();
        assert!(failure.hint.unwrap().contains("--stop-to-resize"));
        assert!(Allowed { stop_to_resize: true, ..none }.check("i-1", &resize).is_ok());
        assert!(Allowed { replace: true, ..none }.check("i-1", &resize).is_err());
        let replace = [difference(Mend::Replace), difference(Mend::Resize("t3.small".into()))];
        assert!(none.check("i-1", &replace).unwrap_err().hint.unwrap().contains("--replace"));
        assert!(Allowed { replace: true, ..none }.check("i-1", &replace).is_ok());
    }

    #[test]
    fn a_changed_image_replaces_nothing_even_where_it_may() {
        let both = Allowed { replace: true, stop_to_resize: true, adopt: false };
        let image = [difference(Mend::Tolerate)];
        assert!(both.check("i-1", &image).is_ok());
        assert!(!both.replaces(&image));
    }
}
