//! Reads the existing objects of a plan with a few list requests, and applies manifests.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZero;
use std::time::Duration;

use anyhow::{Context, Result};
use backon::{ExponentialBuilder, Retryable};
use base64::prelude::{BASE64_STANDARD, Engine};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Secret as SecretObject;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use roster_api::{Group, PASSWORD_SECRET_TYPE, User};
use roster_credentials::HashMetrics;
use roster_credentials::hash::{Argon2idCost, PasswordHash};
use roster_credentials::pool::HashPool;
use roster_credentials::source::HASH_KEY;
use roster_import::assemble::{Content, Item, Plan, Secret};
use roster_import::conflict::{Conflicting, Conflicts};
use roster_import::consent::Consent;
use roster_import::existing::{ExistingGroup, ExistingUser};
use roster_import::findings::Findings;
use roster_import::rules::Kind;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::args::{Args, CONCURRENCY, FIELD_MANAGER};
use super::compare::{is_applied, owned};
use super::list::{PAGE, list, resource, source};
use super::restricted::Restricted;
use super::step::{Key, Step};

/// The objects of a plan that exist in the cluster.
pub(super) struct Live {
    client: Client,
    pool: HashPool,
    /// Existing objects. `None` if applying would change nothing, so memory grows only with the differences.
    found: HashMap<Key, Option<Value>>,
    /// Existing Users to restrict, whether or not the plan is applied, by name.
    pub(super) restricted: BTreeMap<String, Restricted>,
}

impl Live {
    /// Finds the existing Users that the source restricts further. Needs nothing but Users, so that no other request can
    /// keep them active.
    pub(super) async fn restrictions(client: Client, plan: &Plan) -> Result<Self> {
        let mut restricted = BTreeMap::new();
        let people = plan.items.iter().filter(|item| item.kind == Kind::User);
        let planned: HashSet<&str> = people.map(|item| item.name.as_str()).collect();
        let api = Api::all_with(client.clone(), &resource::<User>());
        let user = |object: &DynamicObject| {
            let name = object.name_any();
            let user = Restricted::of(object, plan, planned.contains(&*name));
            restricted.extend(user.map(|user| (name, user)));
        };
        list(&api, "Users", user).await?;
        Ok(Self { client, pool: pool(), found: HashMap::new(), restricted })
    }

    /// Lists Groups, password Secrets in the plan's namespaces, and Users. Returns what must not be applied.
    pub(super) async fn read<'a>(&mut self, plan: &'a Plan, args: &Args) -> Result<(Findings<'a>, Conflicting)> {
        let mut wanted = HashMap::new();
        let mut namespaces = BTreeSet::new();
        for item in &plan.items {
            wanted.insert(key_of(item), Some(item.object.clone()));
            if let Some(secret) = &item.secret {
                namespaces.insert(secret.namespace.clone());
                let manifest = match &secret.content {
                    Content::Hash(hash) => Some(secret.manifest(hash.expose_secret())),
                    Content::Plain(_) => None,
                };
                wanted.insert(Key::Secret(secret.namespace.clone(), secret.name.clone()), manifest);
            }
        }
        let live = self;
        let (accepted, administrators) = (args.accept_existing_users.clone(), args.accept_administrators.clone());
        let consent = Consent::new(plan).taking_over(args.force_conflicts);
        let mut consent = consent.accepting(accepted.unwrap_or_default(), administrators.unwrap_or_default());
        let mut conflicts = Conflicts::new(plan);
        let api = Api::all_with(live.client.clone(), &resource::<Group>());
        let group = |object: &DynamicObject| {
            let (name, spec) = (object.name_any(), &object.data["spec"]);
            consent.existing_group(&ExistingGroup { name: &name, spec, owned: &owned(object) });
            conflicts.existing_group(&name, source(object), spec);
        };
        live.list(&api, "", Key::Group, &wanted, group).await?;
        for namespace in namespaces {
            let api = Api::namespaced_with(live.client.clone(), &namespace, &resource::<SecretObject>());
            let key = |name| Key::Secret(namespace.clone(), name);
            live.list(&api, &format!("type={PASSWORD_SECRET_TYPE}"), key, &wanted, |_| {}).await?;
        }
        live.compare_passwords(plan).await;
        let gets_password = live.gets_password(plan);
        let api = Api::all_with(live.client.clone(), &resource::<User>());
        let user = |object: &DynamicObject| {
            let (name, labels, spec) = (object.name_any(), object.labels(), &object.data["spec"]);
            let (source, owned) = (source(object), owned(object));
            let gets_password = gets_password.contains(&name);
            let user = ExistingUser { name: &name, labels, spec, source, owned: &owned, gets_password };
            consent.existing_user(&user);
            conflicts.existing_user(&user);
        };
        live.list(&api, "", Key::User, &wanted, user).await?;
        Ok((consent.finish(), conflicts.finish()))
    }

    /// Marks the existing Secrets as unchanged whose hash matches the plaintext password of the plan.
    async fn compare_passwords(&mut self, plan: &Plan) {
        let live = &*self;
        let compared = stream::iter(&plan.items).map(|item| async {
            let secret = item.secret.as_ref()?;
            let key = key_of_secret(secret);
            let (Content::Plain(password), Some(Some(object))) = (&secret.content, live.found.get(&key)) else {
                return None;
            };
            is_same(&live.pool, password, object).await.then_some(key)
        });
        let same: Vec<Key> = compared.buffer_unordered(CONCURRENCY).filter_map(std::future::ready).collect().await;
        self.found.extend(same.into_iter().map(|key| (key, None)));
    }

    /// Returns the names of the Users for whom the plan has a password Secret that does not exist or differs.
    fn gets_password(&self, plan: &Plan) -> BTreeSet<String> {
        let secrets = plan.items.iter().filter_map(|item| item.secret.as_ref());
        let changed = secrets.filter(|secret| !matches!(self.found.get(&key_of_secret(secret)), Some(None)));
        changed.map(|secret| secret.user.clone()).collect()
    }

    async fn list(
        &mut self,
        api: &Api<DynamicObject>,
        fields: &str,
        key: impl Fn(String) -> Key,
        wanted: &HashMap<Key, Option<Value>>,
        mut seen: impl FnMut(&DynamicObject),
    ) -> Result<()> {
        let mut params = ListParams::default().limit(PAGE).fields(fields);
        loop {
            let page = api.list(&params).await.with_context(|| format!("{} can't be listed", api.resource_url()))?;
            for object in page.items {
                seen(&object);
                let key = key(object.name_any());
                if let Some(manifest) = wanted.get(&key) {
                    let object = serde_json::to_value(object)?;
                    let is_same = manifest.as_ref().is_some_and(|manifest| is_applied(manifest, &object));
                    self.found.insert(key, (!is_same).then_some(object));
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(()),
            }
        }
    }

    /// Returns whether the User or Group of the item exists, regardless of its Secret.
    pub(super) fn exists(&self, item: &Item) -> bool {
        self.found.contains_key(&key_of(item))
    }

    /// Returns the objects of an item to apply: the Secret first, because the User refers to it.
    pub(super) async fn steps(&self, item: &Item) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some(secret) = &item.secret {
            let key = key_of_secret(secret);
            let live = self.found.get(&key).cloned();
            if !matches!(live, Some(None)) {
                let hash = match &secret.content {
                    Content::Hash(hash) => hash.expose_secret().to_owned(),
                    Content::Plain(password) => hash(&self.pool, password).await,
                };
                let (manifest, live) = (secret.manifest(&hash), live.flatten());
                steps.push(Step { key, manifest, live, takes: Vec::new() });
            }
        }
        let key = key_of(item);
        match self.found.get(&key) {
            Some(None) => {}
            live => {
                let restricted = self.restricted.get(&item.name).filter(|_| item.kind == Kind::User);
                let (manifest, live) = (item.object.clone(), live.cloned().flatten());
                steps.push(Step { key, manifest, live, takes: restricted.map(Restricted::takes).unwrap_or_default() });
            }
        }
        steps
    }

    /// Applies a manifest, with retries if the server is busy. Forces it if nothing conflicts but fields that the step takes
    /// over.
    pub(super) async fn apply(&self, step: &Step, force: bool, dry_run: bool) -> kube::Result<DynamicObject> {
        match self.patch(step, force, dry_run).await {
            Err(kube::Error::Api(status)) if !force && step.may_force(&status) => self.patch(step, true, dry_run).await,
            result => result,
        }
    }

    async fn patch(&self, step: &Step, force: bool, dry_run: bool) -> kube::Result<DynamicObject> {
        let (api, name): (Api<DynamicObject>, _) = match &step.key {
            Key::User(name) => (Api::all_with(self.client.clone(), &resource::<User>()), name),
            Key::Group(name) => (Api::all_with(self.client.clone(), &resource::<Group>()), name),
            Key::Secret(namespace, name) => {
                (Api::namespaced_with(self.client.clone(), namespace, &resource::<SecretObject>()), name)
            }
        };
        let params =
            PatchParams { force, dry_run, field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(5))
            .with_max_times(8)
            .with_jitter();
        let patch = Patch::Apply(&step.manifest);
        (|| api.patch(name, &params, &patch)).retry(backoff).when(is_transient).await
    }
}

fn key_of(item: &Item) -> Key {
    match item.kind {
        Kind::User => Key::User(item.name.clone()),
        Kind::Group => Key::Group(item.name.clone()),
    }
}

fn key_of_secret(secret: &Secret) -> Key {
    Key::Secret(secret.namespace.clone(), secret.name.clone())
}

/// Whether a retry may succeed.
fn is_transient(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        kube::Error::Service(_) | kube::Error::HyperError(_) => true,
        _ => false,
    }
}

/// Creates a pool with one slot for each core and a queue for all concurrent requests.
fn pool() -> HashPool {
    let slots = std::thread::available_parallelism().map_or(1, NonZero::get);
    HashPool::new(Argon2idCost::default(), slots, CONCURRENCY, HashMetrics::default())
}

/// Returns whether the hash in an existing Secret matches the password, so that repeating an import changes nothing.
async fn is_same(pool: &HashPool, password: &SecretString, live: &Value) -> bool {
    let known = live["data"][HASH_KEY].as_str();
    let known = known.and_then(|known| String::from_utf8(BASE64_STANDARD.decode(known).ok()?).ok());
    match known.and_then(|known| PasswordHash::parse(&known).ok()) {
        Some(known) => pool.is_same(password, &known).await == Ok(true),
        None => false,
    }
}

async fn hash(pool: &HashPool, password: &SecretString) -> String {
    let hash = pool.hash(password).await.expect("the pool queues every concurrent request");
    hash.expose().to_owned()
}
