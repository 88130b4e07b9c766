//! What is known of a region, asked for once or in one call for many machines.

use crate::args::AccountArgs;
use crate::aws::Aws;
use crate::batch::Batcher;
use crate::call_error::CallError;
use crate::{credits, group_users, key_pair, tags};
use aws_sdk_ec2::types::{
    Address, Filter, Image, Instance, InstanceTypeInfo, KeyPairInfo, SecurityGroup, Subnet, Volume,
};
use machine_record::Failure;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use tokio::sync::OnceCell;

/// One region, and one deployment in it.
pub struct Region {
    pub name: String,
    pub deployment: String,
    pub aws: Rc<Aws>,
    /// Instances by `nixpipe:name`, those that are not terminated
    pub by_name: Rc<Batcher<Rc<Instance>>>,
    /// Instances by id, terminated ones too
    pub by_id: Rc<Batcher<Rc<Instance>>>,
    /// Security groups by name
    pub groups: Rc<Batcher<Rc<SecurityGroup>>>,
    pub groups_by_id: Rc<Batcher<Rc<SecurityGroup>>>,
    /// Volumes by id
    pub volumes: Rc<Batcher<Rc<Volume>>>,
    /// CPU credits of instances by id
    pub credits: Rc<Batcher<Result<String, Failure>>>,
    /// Elastic IPs by `nixpipe:name`
    pub addresses: Rc<Batcher<Rc<Address>>>,
    /// Key pairs by name, with their public keys
    pub pairs_by_name: Rc<Batcher<Rc<KeyPairInfo>>>,
    /// Instances of the account that are not terminated, by the name of their key pair
    pub users_of_pair: Rc<Batcher<Rc<Instance>>>,
    /// Ids of the account's machines and groups that use a security group, by its id
    pub users_of_group: Rc<Batcher<String>>,
    pub images: Once<String, Option<Rc<Image>>>,
    pub types: Once<String, Rc<InstanceTypeInfo>>,
    pub key_pairs: Once<String, bool>,
    pub subnets: Once<String, Rc<Vec<Subnet>>>,
    pub default_vpc: Once<(), String>,
}

impl Region {
    async fn new(name: &str, account: &AccountArgs) -> Self {
        let aws = Rc::new(Aws::new(name, account.call_timeout).await);
        let deployment = account.deployment.clone();
        let (a, d) = (aws.clone(), deployment.clone());
        let by_name = Batcher::start(async move |names| {
            let states = ["pending", "running", "stopping", "stopped", "shutting-down"];
            let filters = [
                filter(&format!("tag:{}", tags::DEPLOYMENT), [d.clone()]),
                filter(&format!("tag:{}", tags::NAME), names),
                filter("instance-state-name", states.map(String::from)),
            ];
            let found = instances(&a, &filters).await.map_err(|error| error.failure("cannot look for machines"))?;
            let key = |found: &Instance| tags::value(found.tags(), tags::NAME).unwrap_or_default().to_string();
            Ok(found.into_iter().map(|found| (key(&found), Rc::new(found))).collect())
        });
        let a = aws.clone();
        let by_id = Batcher::start(async move |ids| {
            // By a filter: among the parameters one id that is not visible yet would fail the call.
            let found = instances(&a, &[filter("instance-id", ids)]).await;
            let found = found.map_err(|error| error.failure("cannot ask for the state"))?;
            let key = |found: &Instance| found.instance_id().unwrap_or_default().to_string();
            Ok(found.into_iter().map(|found| (key(&found), Rc::new(found))).collect())
        });
        let a = aws.clone();
        let groups = Batcher::start(async move |names| {
            let found = security_groups(&a, &[filter("group-name", names)]).await?;
            let key = |found: &SecurityGroup| found.group_name().unwrap_or_default().to_string();
            Ok(found.into_iter().map(|found| (key(&found), Rc::new(found))).collect())
        });
        let a = aws.clone();
        let groups_by_id = Batcher::start(async move |ids| {
            let found = security_groups(&a, &[filter("group-id", ids)]).await?;
            let key = |found: &SecurityGroup| found.group_id().unwrap_or_default().to_string();
            Ok(found.into_iter().map(|found| (key(&found), Rc::new(found))).collect())
        });
        let a = aws.clone();
        let volumes = Batcher::start(async move |ids: Vec<String>| {
            let what = ids.join(",");
            let found = a.call("", "DescribeVolumes", &what, |client| {
                let call = client.describe_volumes().filters(filter("volume-id", ids.clone()));
                call.into_paginator().items().send().collect::<Result<Vec<_>, _>>()
            });
            let found = found.await.map_err(|error| error.failure("cannot look at volumes"))?;
            let key = |found: &Volume| found.volume_id().unwrap_or_default().to_string();
            Ok(found.into_iter().map(|found| (key(&found), Rc::new(found))).collect())
        });
        let a = aws.clone();
        let credits = Batcher::start(async move |ids| credits::find_all(&a, ids).await);
        let (a, d) = (aws.clone(), deployment.clone());
        let addresses = Batcher::start(async move |names| {
            let ours = filter(&format!("tag:{}", tags::DEPLOYMENT), [d.clone()]);
            let filters = vec![ours, filter(&format!("tag:{}", tags::NAME), names)];
            let what = shown(&filters);
            let found = a.call("", "DescribeAddresses", &what, |client| {
                client.describe_addresses().set_filters(Some(filters.clone())).send()
            });
            let found = found.await.map_err(|error| error.failure("cannot look for Elastic IPs"))?;
            let key = |found: &Address| tags::value(found.tags(), tags::NAME).unwrap_or_default().to_string();
            let found = found.addresses.unwrap_or_default();
            Ok(found.into_iter().map(|found| (key(&found), Rc::new(found))).collect())
        });
        let a = aws.clone();
        let pairs_by_name = Batcher::start(async move |names| {
            let found = key_pair::find_all(&a, "key-name", names).await?;
            let key = |found: &KeyPairInfo| found.key_name().unwrap_or_default().to_string();
            Ok(found.into_iter().map(|found| (key(&found), Rc::new(found))).collect())
        });
        let a = aws.clone();
        let users_of_pair = Batcher::start(async move |names| {
            let found = users_of_pairs(&a, names).await?;
            let key = |found: &Instance| found.key_name().unwrap_or_default().to_string();
            Ok(found.into_iter().map(|found| (key(&found), Rc::new(found))).collect())
        });
        let a = aws.clone();
        let users_of_group = Batcher::start(async move |groups| group_users::find(&a, groups).await);
        Region {
            name: name.into(),
            deployment,
            aws,
            by_name,
            by_id,
            groups,
            groups_by_id,
            volumes,
            credits,
            addresses,
            pairs_by_name,
            users_of_pair,
            users_of_group,
            images: Once::default(),
            types: Once::default(),
            key_pairs: Once::default(),
            subnets: Once::default(),
            default_vpc: Once::default(),
        }
    }
}

/// The instances that fit, of all pages.
pub async fn instances(aws: &Aws, filters: &[Filter]) -> Result<Vec<Instance>, CallError> {
    let what = shown(filters);
    let found = aws.call("", "DescribeInstances", &what, |client| {
        let call = client.describe_instances().set_filters(Some(filters.to_vec()));
        call.into_paginator().page_size(1000).items().send().collect::<Result<Vec<_>, _>>()
    });
    Ok(found.await?.into_iter().flat_map(|reservation| reservation.instances.unwrap_or_default()).collect())
}

/// The instances of the account, of any deployment, that were started with one of the key pairs.
pub async fn users_of_pairs(aws: &Aws, names: Vec<String>) -> Result<Vec<Instance>, Failure> {
    let states = ["pending", "running", "stopping", "stopped"].map(String::from);
    let found = instances(aws, &[filter("key-name", names), filter("instance-state-name", states)]).await;
    found.map_err(|error| error.failure("cannot look for machines that use the key pair"))
}

/// The security groups that fit, of all pages.
pub async fn security_groups(aws: &Aws, filters: &[Filter]) -> Result<Vec<SecurityGroup>, Failure> {
    let what = shown(filters);
    let found = aws.call("", "DescribeSecurityGroups", &what, |client| {
        let call = client.describe_security_groups().set_filters(Some(filters.to_vec()));
        call.into_paginator().page_size(1000).items().send().collect::<Result<Vec<_>, _>>()
    });
    found.await.map_err(|error| error.failure("cannot look for security groups"))
}

pub fn filter(name: &str, values: impl IntoIterator<Item = String>) -> Filter {
    Filter::builder().name(name).set_values(Some(values.into_iter().collect())).build()
}

fn shown(filters: &[Filter]) -> String {
    let one = |filter: &Filter| format!("{}={}", filter.name().unwrap_or_default(), filter.values().join(","));
    filters.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// The regions in use, each set up once.
pub struct Regions {
    account: AccountArgs,
    known: Once<String, Rc<Region>>,
}

impl Regions {
    pub fn new(account: &AccountArgs) -> Self {
        Regions { account: account.clone(), known: Once::default() }
    }

    pub async fn of(&self, name: &str) -> Result<Rc<Region>, Failure> {
        self.known.of(name.to_string(), || async { Ok(Rc::new(Region::new(name, &self.account).await)) }).await
    }
}

/// An answer that is being found, or has been.
type Answer<V> = Rc<OnceCell<Result<V, Failure>>>;

/// Answers that are found once, however many ask for them at the same time; failures too.
pub struct Once<K, V>(RefCell<HashMap<K, Answer<V>>>);

impl<K, V> Default for Once<K, V> {
    fn default() -> Self {
        Once(RefCell::default())
    }
}

impl<K: Hash + Eq, V: Clone> Once<K, V> {
    pub async fn of<F>(&self, key: K, find: impl FnOnce() -> F) -> Result<V, Failure>
    where
        F: Future<Output = Result<V, Failure>>,
    {
        let cell = self.0.borrow_mut().entry(key).or_default().clone();
        cell.get_or_init(find).await.clone()
    }

    /// Forgets an answer that has turned out to be out of date.
    pub fn forget(&self, key: &K) {
        self.0.borrow_mut().remove(key);
    }
}
