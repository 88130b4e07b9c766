//! What a machine is started with, read back from the account; and what a later run says of it.

use crate::region::{DOWN, Region};
use serde_json::Value;

/// What EC2 says of the one living machine, as JSON.
fn described(region: &Region) -> Value {
    let text = region.boto(
        "import json
states = [{'Name': 'instance-state-name', 'Values': ['pending', 'running']}]
[r] = ec2.describe_instances(Filters=states)['Reservations']
print(json.dumps(r['Instances'][0], default=str))",
    );
    serde_json::from_str(&text).unwrap()
}

/// The differences that a plan shows, as `action field have want`.
fn planned(region: &Region, flags: &str) -> Vec<String> {
    let record = region.sh(&format!("ec2-up -q --plan {flags} < web-1.json"), "").ok().record();
    let entries = record.get("plan").and_then(Value::as_array).cloned().unwrap_or_default();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let line = |entry: &Value| {
        let of = |what: &str| word(&entry["details"][what]);
        format!("{} {} {} {}", word(&entry["action"]), of("field"), of("have"), of("want"))
    };
    entries.iter().map(line).collect()
}

#[test]
fn the_metadata_service_asks_for_a_token_wherever_the_image_can() {
    let region = Region::new("imds");
    let tokens = |record: &str, flags: &str| {
        region.sh(&format!("{record} | ec2-up -q --wait running {flags} > up.json"), "").ok();
        let options = described(&region)["MetadataOptions"].clone();
        assert_eq!((&options["HttpPutResponseHopLimit"], &options["HttpEndpoint"]), (&1.into(), &"enabled".into()));
        options["HttpTokens"].as_str().unwrap().to_string()
    };
    let down = || region.sh(&format!("{DOWN} < up.json"), "").ok();
    let old = "nixos-ami -q -n --release 20.09 --name web-1 | keygen -q";
    assert_eq!(tokens(old, ""), "optional", "it would never get its key");
    down();
    assert_eq!(tokens(old, "--imds required"), "required");
    down();
    // Records by hand, of the id alone: EC2 knows whose the image is.
    assert_eq!(tokens(&format!("{old} | jq -c '.ami |= {{id}}'"), ""), "optional");
    down();
    let typed = "jq -c '.ami |= {id}' web-1.json";
    assert_eq!(tokens(typed, ""), "required");
    down();
    assert_eq!(tokens("cat web-1.json", "--imds optional"), "optional");
    down();
    assert_eq!(tokens("cat web-1.json", ""), "required");

    // Somebody changes it: what is not said stays, what is said is shown and mended, while it runs.
    let id = described(&region)["InstanceId"].as_str().unwrap().to_string();
    region.boto(&format!("ec2.modify_instance_metadata_options(InstanceId='{id}', HttpTokens='optional')"));
    assert_eq!(planned(&region, ""), [""; 0]);
    assert_eq!(planned(&region, "--imds required"), ["update imds optional required"]);
    assert_eq!(tokens("cat web-1.json", ""), "optional");
    assert_eq!(tokens("cat web-1.json", "--imds required"), "required");
    assert_eq!(planned(&region, "--imds required"), [""; 0]);
    assert_eq!(described(&region)["InstanceId"], id.as_str());
    let member = "jq -c '.wish = {imds: \"optional\"}' web-1.json";
    assert_eq!(tokens(member, "--imds required"), "optional");
}

#[test]
fn spot_and_credits_are_as_wished_and_compared() {
    let region = Region::new("market");
    let credits = || {
        let id = described(&region)["InstanceId"].as_str().unwrap().to_string();
        region.boto(&format!(
            "print(ec2.describe_instance_credit_specifications(InstanceIds=['{id}'])['InstanceCreditSpecifications'][0]['CpuCredits'])"
        ))
    };
    let up = |flags: &str| region.sh(&format!("ec2-up -q --wait running {flags} < web-1.json"), "");
    up("--spot --credits standard").ok();
    assert_eq!((described(&region)["InstanceLifecycle"].as_str(), credits().as_str()), (Some("spot"), "standard"));
    let before = region.changes().len();
    up("--spot --credits standard").ok();
    up("").ok();
    assert_eq!(region.changes().len(), before);
    assert_eq!(planned(&region, "--credits unlimited"), ["update credits standard unlimited"]);
    up("--credits unlimited").ok();
    assert_eq!(credits(), "unlimited");
    // EC2 never stops such a machine: another type is another machine.
    let resize = up("--stop-to-resize --instance-type t3.small").record()["error"].clone();
    assert_eq!(resize["kind"], "conflict", "{resize}");
    assert!(resize["hint"].as_str().unwrap().contains("--replace"), "{resize}");
    region.sh(&format!("{DOWN} -n --name web-1"), "").ok();
    // EC2's own default, where nothing is said.
    up("").ok();
    assert_eq!((described(&region).get("InstanceLifecycle"), credits().as_str()), (None, "unlimited"));
    assert_eq!(planned(&region, "--spot"), ["replace market on demand spot"]);
    assert_eq!(up("--spot").record()["error"]["kind"], "conflict");
    // One that has no credits fails by itself: the question for both is an error for both.
    let two = "(jq -c '.name = \"web-2\" | .wish.instanceType = \"m5.large\"' web-1.json; cat web-1.json)";
    region.sh(&format!("{two} | ec2-up -q --wait running"), "").ok();
    let records = region.sh(&format!("{two} | ec2-up -q --wait running --credits standard"), "").records();
    let outcome = |name: &str| {
        let record = records.iter().find(|record| record["name"] == name).unwrap();
        record["error"]["kind"].as_str().map(String::from)
    };
    assert_eq!((outcome("web-1"), outcome("web-2")), (None, Some("input".into())), "{records:?}");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn an_instance_profile_is_given_by_name_or_arn_and_never_quietly_changed() {
    let region = Region::new("profile");
    let profile = |name: &str| {
        region.boto(&format!(
            "iam = boto3.client('iam', region_name='eu-central-1')
print(iam.create_instance_profile(InstanceProfileName='{name}', Path='/machines/')['InstanceProfile']['Arn'])"
        ))
    };
    let up = |flags: &str| region.sh(&format!("ec2-up --wait running {flags} < web-1.json"), "");
    let has = || described(&region)["IamInstanceProfile"]["Arn"].as_str().map(String::from);
    // IAM tells EC2 of a new profile some seconds later.
    let mut early = region.folder.command(&format!(
        "export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=eu-central-1 AWS_ENDPOINT_URL=http://127.0.0.1:{}
         ec2-up --wait running --instance-profile web < web-1.json > up.json 2> said",
        region.port
    ));
    let mut early = early.spawn().unwrap();
    region.sh("until grep -q 'Invalid IAM Instance Profile' said; do sleep 0.1; done", "").ok();
    let web = profile("web");
    assert!(early.wait().unwrap().success());
    assert_eq!((has(), region.made("RunInstances", "i-").len()), (Some(web.clone()), 1));
    // The same by its ARN, and no word of it, are no change.
    let before = region.changes().len();
    for flags in [format!("--instance-profile {web}"), "--instance-profile web".into(), String::new()] {
        up(&flags).ok();
        assert_eq!(planned(&region, &flags), [""; 0], "{flags}");
    }
    assert_eq!(region.changes().len(), before);
    let db = profile("db");
    assert_eq!(planned(&region, "--instance-profile db"), [format!("replace instance profile {web} db")]);
    let refused = up("--instance-profile db");
    let error = refused.record()["error"].clone();
    assert_eq!((refused.status, &error["kind"]), (1, &"conflict".into()), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("--replace"), "{error}");
    up(&format!("--replace --instance-profile {db}")).ok();
    assert_eq!((has(), region.sh("ec2-ls -q", "").ok().records().len()), (Some(db), 1));
    region.sh(&format!("{DOWN} -n --name web-1"), "").ok();

    // One that is not there.
    let absent = up("--instance-profile wbe");
    let error = absent.record()["error"].clone();
    assert_eq!((absent.status, &error["kind"]), (1, &"input".into()), "{error}");
    assert!(error["message"].as_str().unwrap().contains("wbe"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("aws iam list-instance-profiles"), "{error}");
    assert_eq!(region.sh("ec2-ls -q", "").ok().stdout, "");
}

#[test]
fn a_plan_keeps_no_address_that_a_run_would_learn_anew() {
    let region = Region::new("plan-address");
    region.sh("ec2-up -q --wait running < web-1.json > up.json", "").ok();
    let plan = |input: &str, flags: &str| {
        let record = region.sh(&format!("{input} | ec2-up -q --plan {flags}"), "").ok().record();
        ["/instance/id", "/ssh/host", "/ssh/jump"].map(|member| record.pointer(member).is_some_and(Value::is_string))
    };
    let (plain, behind) = ("cat up.json", "jq -c '.ssh.jump = \"bastion\"' up.json");
    assert_eq!(plan(behind, ""), [true, true, true]);
    // A run would refuse it: the machine stays.
    assert_eq!(plan(plain, "--spot"), [true, true, false]);
    assert_eq!(plan(plain, "--spot --replace"), [false, false, false]);
    assert_eq!(plan(behind, "--spot --replace"), [false, false, true]);
    let id = described(&region)["InstanceId"].as_str().unwrap().to_string();
    region.boto(&format!("ec2.stop_instances(InstanceIds=['{id}'])"));
    assert_eq!(plan(plain, ""), [true, false, false]);
    assert_eq!(plan(behind, ""), [true, false, true]);
    region.sh(&format!("{DOWN} -n --name web-1"), "").ok();
    assert_eq!(plan(plain, ""), [false, false, false]);
    assert_eq!(plan(behind, ""), [false, false, true]);
}
