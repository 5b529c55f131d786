//! The objects of a plan in the cluster: reads them with a few lists, and applies them.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZero;
use std::time::Duration;

use anyhow::{Context, Result};
use backon::{ExponentialBuilder, Retryable};
use base64::prelude::{BASE64_STANDARD, Engine};
use k8s_openapi::api::core::v1::Secret as SecretObject;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use roster_api::{Group, PASSWORD_SECRET_TYPE, User};
use roster_credentials::HashMetrics;
use roster_credentials::hash::{Argon2idCost, PasswordHash};
use roster_credentials::pool::HashPool;
use roster_credentials::source::HASH_KEY;
use roster_import::assemble::{Content, Item, Plan};
use roster_import::conflict::{Conflict, Conflicts};
use roster_import::consent::{Admitted, Consent, ExistingUser, Promotions};
use roster_import::draft::SOURCE_ANNOTATION;
use roster_import::rules::Kind;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::args::{CONCURRENCY, FIELD_MANAGER};
use super::compare::is_applied;

/// Objects in one page of a list.
pub(crate) const PAGE: u32 = 500;

/// Identifies an object.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Key {
    /// A User.
    User(String),
    /// A Group.
    Group(String),
    /// A Secret, by namespace and name.
    Secret(String, String),
}

/// One object of an item, and its current state in the cluster.
pub(super) struct Step {
    pub key: Key,
    pub manifest: Value,
    /// The current object, if it exists and differs.
    pub live: Option<Value>,
}

/// The objects of a plan that exist in the cluster.
pub(super) struct Live {
    client: Client,
    pool: HashPool,
    /// Existing objects. `None` if applying would change nothing, so memory grows only with the differences.
    found: HashMap<Key, Option<Value>>,
    /// Existing Users that would become members of a Group although the plan does not list them.
    pub(super) admitted: Vec<Admitted>,
    /// Existing Users that the plan gives further Groups or `spec.admin`.
    pub(super) promotions: Promotions,
    /// Existing objects that have the name of a planned one, and are another group or person.
    pub(super) conflicts: Vec<Conflict>,
}

impl Live {
    /// Lists Groups, Users, and password Secrets in the plan's namespaces.
    pub(super) async fn read(client: Client, plan: &Plan) -> Result<Self> {
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
        let (admitted, promotions) = (Vec::new(), Promotions::default());
        let mut live =
            Self { client, pool: pool(), found: HashMap::new(), admitted, promotions, conflicts: Vec::new() };
        let (mut consent, mut conflicts) = (Consent::new(plan), Conflicts::new(plan));
        let api = Api::all_with(live.client.clone(), &resource::<Group>());
        let group = |object: &DynamicObject| {
            let (name, spec) = (object.name_any(), &object.data["spec"]);
            consent.existing_group(&name, spec);
            let source = object.annotations().get(SOURCE_ANNOTATION).map(String::as_str);
            conflicts.existing(Kind::Group, &name, source, spec);
        };
        live.list(&api, "", Key::Group, &wanted, group).await?;
        let api = Api::all_with(live.client.clone(), &resource::<User>());
        let user = |object: &DynamicObject| {
            let (name, labels, spec) = (object.name_any(), object.labels(), &object.data["spec"]);
            consent.existing_user(&ExistingUser { name: &name, labels, spec });
            conflicts.existing(Kind::User, &name, None, spec);
        };
        live.list(&api, "", Key::User, &wanted, user).await?;
        (live.admitted, live.promotions) = consent.finish();
        live.conflicts = conflicts.finish();
        for namespace in namespaces {
            let api = Api::namespaced_with(live.client.clone(), &namespace, &resource::<SecretObject>());
            let key = |name| Key::Secret(namespace.clone(), name);
            live.list(&api, &format!("type={PASSWORD_SECRET_TYPE}"), key, &wanted, |_| {}).await?;
        }
        Ok(live)
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

    /// Whether the item's own object exists.
    pub(super) fn exists(&self, item: &Item) -> bool {
        self.found.contains_key(&key_of(item))
    }

    /// Returns the objects of an item to apply: the Secret first, because the User refers to it.
    pub(super) async fn steps(&self, item: &Item) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some(secret) = &item.secret {
            let key = Key::Secret(secret.namespace.clone(), secret.name.clone());
            let live = self.found.get(&key).cloned();
            let hash = match &secret.content {
                Content::Hash(hash) => Some(hash.expose_secret().to_owned()),
                Content::Plain(password) => rehash(&self.pool, password, live.as_ref().and_then(Option::as_ref)).await,
            };
            if let Some(hash) = hash.filter(|_| !matches!(live, Some(None))) {
                steps.push(Step { key, manifest: secret.manifest(&hash), live: live.flatten() });
            }
        }
        let key = key_of(item);
        match self.found.get(&key) {
            Some(None) => {}
            live => steps.push(Step { key, manifest: item.object.clone(), live: live.cloned().flatten() }),
        }
        steps
    }

    /// Applies a manifest, with retries if the server is busy.
    pub(super) async fn apply(&self, step: &Step, force: bool, dry_run: bool) -> kube::Result<DynamicObject> {
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

fn resource<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
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

/// Hashes a password. Returns `None` if the existing hash matches, so that repeating an import changes nothing.
async fn rehash(pool: &HashPool, password: &SecretString, live: Option<&Value>) -> Option<String> {
    let known = live.and_then(|live| live["data"][HASH_KEY].as_str());
    let known = known.and_then(|known| String::from_utf8(BASE64_STANDARD.decode(known).ok()?).ok());
    if let Some(known) = known.and_then(|known| PasswordHash::parse(&known).ok())
        && pool.is_same(password, &known).await == Ok(true)
    {
        return None;
    }
    let hash = pool.hash(password).await.expect("the pool queues every concurrent request");
    Some(hash.expose().to_owned())
}
