//! The life of machines: made once, changed in place, replaced only with a word, removed with what is theirs.

use crate::region::{DOWN, Region, UP};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tests::{control, sample};

#[test]
#[ignore = "long: scripts/test --all"]
fn ten_at_once_make_one_machine() {
    let region = Region::new("ten");
    for _ in 0..sample(5, 1) {
        region.reset();
        region.cloud("fault late 0.7");
        let script = format!("for i in 1 2 3 4 5 6 7 8 9 10; do {UP} < web-1.json & done; wait");
        let records = region.sh(&script, "").ok().records();
        let ids: BTreeSet<_> = records.iter().map(|record| record["instance"]["id"].to_string()).collect();
        assert_eq!((records.len(), ids.len()), (10, 1), "{records:?}");
        assert_eq!(region.made("RunInstances", "i-").len(), 1);
        assert_eq!(region.made("CreateSecurityGroup", "sg-").len(), 1);
        let addresses = region.boto("print(len(ec2.describe_addresses()['Addresses']))");
        assert_eq!(addresses, "1", "Elastic IPs have no client token");
        let shown: BTreeSet<_> = records.iter().map(|record| record["instance"]["publicIp"].to_string()).collect();
        assert_eq!(shown.len(), 1, "{records:?}");
        region.cloud("fault clear");
        assert_eq!(region.sh("ec2-ls -q --orphans", "").ok().stdout, "");
    }
}

#[test]
fn two_at_once_with_different_wishes_end_in_one_machine() {
    let region = Region::new("wishes-at-once");
    for _ in 0..sample(5, 1) {
        region.reset();
        let both =
            "for t in t3.micro t3.small; do ec2-up -q --wait running --instance-type $t < web-1.json & done; wait";
        let records = region.sh(both, "").records();
        assert_eq!(records.len(), 2);
        let living = region.sh("ec2-ls -q", "").ok().record()["instance"]["id"].clone();
        for record in &records {
            assert_eq!(record["instance"]["id"], living, "{record}");
        }
        let again = region.sh(&format!("{UP} < web-1.json"), "").ok().record();
        assert_eq!((&again["instance"]["id"], &again["instance"]["created"]), (&living, &Value::from(false)));
    }
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_machine_that_nobody_waits_for_is_one_and_goes_before_ec2_shows_it() {
    let region = Region::new("unseen");
    for _ in 0..sample(5, 1) {
        region.reset();
        let both = "for t in t3.micro t3.small; do ec2-up -q --wait none --instance-type $t < web-1.json & done; wait";
        let records = region.sh(both, "").records();
        let living = region.sh("ec2-ls -q", "").ok().records();
        assert_eq!((records.len(), living.len()), (2, 1), "{records:?}");
    }
    region.reset();
    // Its maker was killed: by its id, where it has no group of its own, and by its group.
    region.boto("open('group', 'w').write(ec2.create_security_group(GroupName='own', Description='x')['GroupId'])");
    for flags in ["--security-group $(cat group)", ""] {
        control(region.port, "POST", "clear-log");
        region.cloud("fault late 5 --action RunInstances");
        let mut killed = region.command(&format!("exec ec2-up -q --wait none {flags} < web-1.json")).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while region.made("RunInstances", "i-").is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        killed.kill().unwrap();
        let made = region.made("RunInstances", "i-").first().unwrap().clone();
        killed.wait().unwrap();
        region.cloud("fault clear");
        let named = "{id: $id, launchTime: (now | todate)}";
        let down = match flags {
            "" => "ec2-down -n --name web-1".to_string(),
            _ => format!("jq -c --arg id {made} '.instance = {named}' web-1.json | ec2-down"),
        };
        let down = region.sh(&down, "").ok();
        assert!(down.stderr.contains(&format!("terminating {made}")), "{}", down.stderr);
        let state = format!(
            "print(ec2.describe_instances(InstanceIds=['{made}'])['Reservations'][0]['Instances'][0]['State']['Name'])"
        );
        assert_eq!(region.boto(&state), "terminated");
        assert_eq!(region.sh("ec2-ls -q; ec2-ls -q --orphans", "").ok().stdout, "");
    }
}

#[test]
fn what_was_deployed_on_a_machine_goes_with_it() {
    let region = Region::new("deployed");
    let deployed = "'. + {activation: {current: \"/nix/store/x\"}, closure: {toplevel: \"/nix/store/x\"}, own: 1} | .ssh.jump = \"bastion\"'";
    let up = region.sh(&format!("{UP} < web-1.json | jq -c {deployed}"), "").ok().record();
    let has = |record: &Value| ["activation", "closure", "own", "instance"].map(|name| record.get(name).is_some());
    let again = region.sh(UP, &up.to_string()).ok().record();
    assert_eq!((has(&again), &again["ssh"]["jump"]), ([true; 4], &"bastion".into()), "{again}");
    let down = region.sh(DOWN, &up.to_string()).ok().record();
    assert_eq!((has(&down), &down["ssh"]), ([false, false, true, false], &serde_json::json!({"jump": "bastion"})));
    // Lost, or replaced: it is another machine that the record is of then.
    let anew = region.sh(&UP.replace("-q ", ""), &up.to_string()).ok();
    assert!(anew.stderr.contains(" is not there: it was terminated, or is of another account"), "{}", anew.stderr);
    let anew = anew.record();
    assert_eq!((has(&anew), &anew["ssh"]["jump"]), ([false, false, true, true], &"bastion".into()), "{anew}");
    let mut replaced = anew.clone();
    replaced["activation"] = up["activation"].clone();
    let replaced = region.sh(&format!("{UP} --replace --spot"), &replaced.to_string()).ok().record();
    assert_eq!((has(&replaced), &replaced["instance"]["created"]), ([false, false, true, true], &true.into()));
    // A machine that is nowhere in EC2 is as it was.
    let own = "{\"name\":\"pi\",\"ssh\":{\"host\":\"pi.example\",\"hostKeys\":[\"k\"]},\"activation\":{}}";
    assert_eq!(
        region.sh(DOWN, own).ok().record(),
        serde_json::json!({
            "name": "pi", "ssh": {"host": "pi.example", "hostKeys": ["k"]}, "activation": {}, "version": 1
        })
    );
}

#[test]
fn an_instance_without_a_name_hides_none_that_has_one() {
    let region = Region::new("nameless");
    region.sh(&format!("nixos-ami -q -n --release 25.11 | keygen -q | {UP}"), "").ok();
    region.boto(
        "[i] = ec2.describe_instances()['Reservations'][0]['Instances']
other = ec2.run_instances(ImageId=i['ImageId'], InstanceType='t3.micro', MinCount=1, MaxCount=1)['Instances'][0]['InstanceId']
ec2.create_tags(Resources=[other], Tags=[{'Key': 'nixpipe:deployment', 'Value': 'default'}])",
    );
    let down = region.sh(&format!("{DOWN} -n --all"), "");
    assert_eq!((down.status, down.records().len()), (1, 2), "{}", down.stderr);
    let states = "print([i['State']['Name'] for r in ec2.describe_instances()['Reservations'] for i in r['Instances'] if any(t['Key'] == 'nixpipe:name' for t in i['Tags'])])";
    assert_eq!(region.boto(states), "['terminated']");
    // A record without a name is one all the same.
    let ran = region.sh(&format!("{DOWN} --all"), "{\"region\":\"eu-central-1\"}");
    assert_eq!((ran.status, &ran.record()["error"]["kind"]), (1, &"input".into()), "{}", ran.stderr);
}

#[test]
fn up_after_down_makes_a_fresh_machine_and_the_tokens_of_old_ones_do_not_matter() {
    let region = Region::new("again");
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
    let region = Region::new("word");
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
    // What could not be made takes nothing away.
    region.cloud("fault deny RunInstances");
    let denied = region.sh(&format!("{UP} --spot --replace < web-1.json"), "").record();
    assert_eq!(denied["error"]["kind"], "denied", "{denied}");
    region.cloud("fault clear");
    let unknown = region.sh(&format!("{UP} --instance-profile nowhere --replace < web-1.json"), "").record();
    assert_eq!(unknown["error"]["kind"], "input", "{unknown}");
    assert_eq!(region.sh("ec2-ls -q", "").ok().record()["instance"]["id"], first["instance"]["id"]);
    let replaced = region.sh(&format!("{UP} --spot --replace < web-1.json"), "").ok().record();
    assert_ne!(replaced["instance"]["id"], first["instance"]["id"]);
    assert_eq!(replaced["instance"]["created"], true);
    assert_eq!(region.sh("ec2-ls -q", "").ok().records().len(), 1);
}

#[test]
fn an_elastic_ip_is_shown_at_once_and_goes_though_nothing_else_is_left() {
    let region = Region::new("address");
    let up = region.sh("ec2-up -q --wait none --elastic-ip < web-1.json", "").ok().record();
    assert_eq!(up["instance"]["publicIp"], up["ssh"]["host"]);
    let id = up["instance"]["id"].as_str().unwrap();
    let group = up["instance"]["securityGroupId"].as_str().unwrap();
    region.boto(&format!(
        "import time
ec2.terminate_instances(InstanceIds=['{id}'])
ec2.get_waiter('instance_terminated').wait(InstanceIds=['{id}'], WaiterConfig={{'Delay': 1}})
ec2.delete_security_group(GroupId='{group}')"
    ));
    let plan = region.sh("ec2-down -n --all --plan", "").ok();
    assert!(plan.stderr.contains("plan: 0 to add, 0 to change, 2 to destroy"), "{}", plan.stderr);
    region.sh("ec2-down -q -n --all", "").ok();
    assert_eq!(
        region.boto("print(ec2.describe_addresses()['Addresses'], ec2.describe_key_pairs()['KeyPairs'])"),
        "[] []"
    );
}

#[test]
fn a_tag_is_put_on_all_parts_of_a_machine() {
    let region = Region::new("tags");
    region.sh(&format!("{UP} < web-1.json"), "").ok();
    region.sh(&format!("{UP} --tag 'Cost Center=a=b: ü/@' < web-1.json"), "").ok();
    let tagged = region.boto(
        "found = ec2.describe_tags(Filters=[{'Name': 'key', 'Values': ['Cost Center']}])['Tags']
print(' '.join(sorted(t['ResourceId'].split('-')[0] for t in found)), {t['Value'] for t in found})",
    );
    assert_eq!(tagged, "eni i sg vol {'a=b: ü/@'}");
}

#[test]
fn size_and_type_of_a_volume_change_together_and_credits_in_place() {
    let region = Region::new("together");
    let wish = format!("{UP} --volume-size 60 --volume-type gp2 --credits standard");
    region.sh(&format!("{UP} < web-1.json"), "").ok();
    region.sh(&format!("{wish} < web-1.json"), "").ok();
    assert_eq!(region.count("ModifyVolume"), 1);
    let before = region.changes().len();
    region.sh(&format!("{wish} < web-1.json"), "").ok();
    assert_eq!(region.changes().len(), before);
    assert_eq!(
        region.boto("print([(v['Size'], v['VolumeType']) for v in ec2.describe_volumes()['Volumes']])"),
        "[(60, 'gp2')]"
    );
}

#[test]
fn a_machine_that_somebody_else_made_is_taken_over_with_a_word() {
    let region = Region::new("adopt");
    let ami = region.sh("jq -r .ami.id web-1.json", "").ok().stdout;
    let id = region.boto(&format!(
        "print(ec2.run_instances(ImageId='{}', InstanceType='t3.micro', MinCount=1, MaxCount=1)['Instances'][0]['InstanceId'])",
        ami.trim()
    ));
    // A person types the id, and no more.
    let record = format!("jq -c '.instance = {{id: \"{id}\"}}' web-1.json");
    let plan = region.sh(&format!("{record} | ec2-up -q --adopt --plan"), "").ok().record()["plan"].clone();
    let over = |entry: &Value| entry["resource"] == "instance/web-1" && entry["reason"] == "it is taken over";
    assert!(plan.as_array().unwrap().iter().any(over), "{plan}");
    let refused = region.sh(&format!("{record} | ec2-up -q --adopt --wait running"), "").record();
    // It was started without the key pair, which only a new machine can have.
    assert_eq!(refused["error"]["kind"], "conflict", "{refused}");
    assert!(
        refused["error"]["hint"].as_str().unwrap().starts_with("leave that wish out; keyPair.name is"),
        "{refused}"
    );
    let tags =
        format!("print(ec2.describe_instances(InstanceIds=['{id}'])['Reservations'][0]['Instances'][0].get('Tags'))");
    assert_eq!(region.boto(&tags), "None", "what is refused is not taken over");
    let adopted =
        region.sh(&format!("{record} | jq -c 'del(.keyPair)' | ec2-up -q --adopt --wait running"), "").ok().record();
    assert_eq!((&adopted["instance"]["id"], &adopted["instance"]["created"]), (&id.clone().into(), &false.into()));
    assert_eq!(region.sh("ec2-ls -q", "").ok().record()["name"], "web-1");
    region.sh(&format!("{DOWN} -n --name web-1"), "").ok();
    assert_eq!(region.sh("ec2-ls -q; ec2-ls -q --orphans", "").ok().stdout, "");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn all_regions_are_listed_with_what_their_consoles_show() {
    let region = Region::new("regions");
    let print = format!("SHA256:{}", "a".repeat(43));
    for place in ["eu-central-1", "us-east-1", "eu-west-1"] {
        let make = format!("nixos-ami -q -n --release 25.11 --region {place} --name in-{place} | keygen -q");
        region.sh(&format!("{make} | ec2-up -q --wait running"), "").ok();
    }
    let block = format!(
        "-----BEGIN SSH HOST KEY FINGERPRINTS-----\n256 {print} root@x (ED25519)\n-----END SSH HOST KEY FINGERPRINTS-----\n"
    );
    let console = region.folder.path().join("console");
    std::fs::write(&console, block).unwrap();
    region.cloud(&format!("raw POST console machine=in-us-east-1 < {}", console.display()));
    let listed = region.sh("ec2-ls -q --all-regions", "").ok().records();
    let keys: BTreeMap<_, _> =
        listed.iter().map(|record| (record["name"].as_str().unwrap(), &record["ssh"]["hostKeys"])).collect();
    let none = Value::Array(vec![]);
    let expected = [("in-eu-central-1", &none), ("in-eu-west-1", &none), ("in-us-east-1", &Value::from(vec![print]))];
    assert_eq!(keys, BTreeMap::from(expected));
    // A region that fails is named, and keeps no other back.
    region.cloud("fault deny DescribeInstances --region eu-west-1");
    region.cloud("fault deny DescribeInstances --region eu-west-2");
    let some = region.sh("ec2-ls -q --all-regions", "");
    let names: BTreeSet<_> = some.records().iter().map(|record| record["name"].to_string()).collect();
    assert_eq!((some.status, names.len()), (1, 2), "{}", some.stderr);
    assert!(!names.contains("\"in-eu-west-1\""), "{names:?}");
    for place in ["eu-west-1", "eu-west-2"] {
        let line = format!("ec2-ls: {place}: cannot list machines: DescribeInstances: UnauthorizedOperation");
        assert_eq!(some.stderr.matches(&line).count(), 1, "{}", some.stderr);
    }
    assert_eq!(some.stderr.matches("cannot list machines").count(), 2, "{}", some.stderr);
    region.cloud("fault clear");
    // A record knows its region.
    region.sh("ec2-ls -q --all-regions | AWS_REGION=eu-west-1 ec2-down -q", "").ok();
    assert_eq!(region.sh("ec2-ls -q --all-regions; ec2-ls -q --all-regions --orphans", "").ok().stdout, "");
}

#[test]
fn machines_that_share_a_key_pair_leave_it_to_the_last() {
    let region = Region::new("shared");
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
    let region = Region::new("killed");
    let moments = sample(20, 3);
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

#[test]
fn a_volume_that_is_not_as_wished_is_not_reported_as_done() {
    let region = Region::new("volume-again");
    region.cloud("set modifying 3600");
    let up = |wish: &str| region.sh(&format!("ec2-up -q --wait running {wish} < web-1.json"), "");
    up("").ok();
    up("--volume-size 60").ok();
    // The same once more is done, another is not.
    up("--volume-size 60").ok();
    for wish in ["--volume-size 80", "--volume-type gp2"] {
        let again = up(wish);
        let error = again.record()["error"].clone();
        assert_eq!((again.status, error["kind"].as_str().unwrap()), (1, "limit"), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("once in six hours"), "{error}");
    }
    assert_eq!(region.boto("print([v['Size'] for v in ec2.describe_volumes()['Volumes']])"), "[60]");
}

#[test]
fn a_living_machine_of_the_record_is_not_made_a_second_time() {
    let region = Region::new("second");
    region.sh("ec2-up -q --wait running --deployment staging < web-1.json > up.json", "").ok();
    let id = region.sh("jq -r .instance.id up.json", "").ok().stdout.trim().to_string();
    for plan in ["", "--plan"] {
        let refused = region.sh(&format!("ec2-up -q --wait running {plan} < up.json"), "");
        let error = refused.record()["error"].clone();
        assert_eq!((refused.status, error["kind"].as_str().unwrap()), (1, "conflict"), "{error}");
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .contains(&format!("{id} is the machine web-1 of the deployment staging"))
        );
        assert!(error["hint"].as_str().unwrap().contains("--deployment staging"), "{error}");
    }
    assert_eq!(region.count("RunInstances"), 1);
    // One that somebody else made needs a word; one that is gone is none.
    region.boto(&format!(
        "ec2.delete_tags(Resources=['{id}'], Tags=[{{'Key': 'nixpipe:name'}}, {{'Key': 'nixpipe:deployment'}}])"
    ));
    let error = region.sh("ec2-up -q --wait running < up.json", "").record()["error"].clone();
    assert!(error["hint"].as_str().unwrap().contains("--adopt"), "{error}");
    region.boto(&format!("ec2.terminate_instances(InstanceIds=['{id}'])"));
    let fresh = region.sh("ec2-up -q --wait running < up.json", "").ok().record();
    assert_eq!(fresh["instance"]["created"], true);
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_security_group_that_others_use_stays() {
    let region = Region::new("group-users");
    let group = region.sh("ec2-up -q --wait running < web-1.json | tee up.json", "").ok().record();
    let group = group["instance"]["securityGroupId"].as_str().unwrap().to_string();
    let ami = region.sh("jq -r .ami.id web-1.json", "").ok().stdout;
    let other = region.boto(&format!(
        "run = ec2.run_instances(ImageId='{}', InstanceType='t3.micro', MinCount=1, MaxCount=1, SecurityGroupIds=['{group}'])
print(run['Instances'][0]['InstanceId'])",
        ami.trim()
    ));
    let stays = format!("the security group nixpipe-default-web-1 stays: it is used by {other}\n");
    let plan = region.sh("ec2-down --plan < up.json", "").ok();
    assert!(plan.stderr.contains(&stays), "{}", plan.stderr);
    assert!(!plan.record()["plan"].to_string().contains("security-group"), "{}", plan.record());
    let down = region.sh("ec2-down --timeout 1m < up.json", "").ok();
    assert!(down.stderr.contains(&stays), "{}", down.stderr);
    assert_eq!((region.count("DeleteSecurityGroup"), region.count("DeleteKeyPair")), (0, 1));
    assert_eq!(region.sh("ec2-ls -q --orphans", "").ok().stdout, "", "it has a user");
    // A rule of another group is a use, too, in and out.
    let rule = format!(
        "IpPermissions=[{{'IpProtocol': 'tcp', 'FromPort': 80, 'ToPort': 80, 'UserIdGroupPairs': [{{'GroupId': '{group}'}}]}}]"
    );
    let second = region.boto(&format!(
        "ec2.terminate_instances(InstanceIds=['{other}'])
second = ec2.create_security_group(GroupName='second', Description='x')['GroupId']
ec2.authorize_security_group_ingress(GroupId=second, {rule})
print(second)"
    ));
    let down = || region.sh("ec2-down -q --timeout 1m -n --name web-1", "").ok();
    down();
    region.boto(&format!("ec2.authorize_security_group_egress(GroupId='{second}', {rule})\nec2.revoke_security_group_ingress(GroupId='{second}', {rule})"));
    down();
    assert_eq!(region.count("DeleteSecurityGroup"), 0);
    region.boto(&format!("ec2.revoke_security_group_egress(GroupId='{second}', {rule})"));
    assert_eq!(region.sh("ec2-ls -q --orphans", "").ok().records().len(), 1);
    down();
    assert_eq!(region.count("DeleteSecurityGroup"), 1);
    assert_eq!(region.sh("ec2-ls -q; ec2-ls -q --orphans", "").ok().stdout, "");
}
