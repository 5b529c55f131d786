//! Thousands of users in each format: an import that is killed halfway and repeated has the result of one run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::{Client, Resource};
use roster_api::{Group, User};
use serde_json::{Value, json};

use crate::support::{Cluster, binary};

/// Number of users in each format. There are many formats, and they differ in what is read, not in what is applied.
static PEOPLE: LazyLock<usize> = LazyLock::new(|| super::size_divided_by(10, 10_000));
const GROUPS: usize = 20;
const BCRYPT: &str = "$2b$10$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW";

/// One user in a hundred has a hash: otherwise, half of the imported objects would be Secrets.
fn hash(index: usize) -> &'static str {
    if index.is_multiple_of(100) { BCRYPT } else { "" }
}

fn lines(line: impl Fn(usize) -> String) -> String {
    (0..*PEOPLE).map(line).collect()
}

fn array(items: impl Fn(usize) -> Value, count: usize) -> Value {
    (0..count).map(items).collect::<Vec<_>>().into()
}

fn csv() -> String {
    let row = |i| format!("u{i:05},u{i:05}@example.com,\"Person, the {i}th\",g{};everyone,{}\n", i % GROUPS, hash(i));
    format!("username,email,display name,groups,password hash\n{}", lines(row))
}

fn json_lines() -> String {
    lines(|i| {
        let mut person =
            json!({"username": format!("u{i:05}"), "zone": "eu-west", "extra": {"number": [i.to_string()]}});
        if !hash(i).is_empty() {
            person["passwordHash"] = hash(i).into();
        }
        format!("{person}\n")
    })
}

fn ldif() -> String {
    let person = |i| {
        let hash = Some(hash(i)).filter(|hash| !hash.is_empty()).map(|hash| format!("userPassword: {{CRYPT}}{hash}\n"));
        let (dn, hash) = (format!("uid=u{i:05},ou=people,dc=example"), hash.unwrap_or_default());
        format!(
            "dn: {dn}\nobjectClass: inetOrgPerson\nuid: u{i:05}\ncn: Person {i}\nsn: {i}\nmail: u{i:05}@example.com\n{hash}\n"
        )
    };
    let mut text = lines(person);
    for group in 0..GROUPS {
        write!(text, "dn: cn=g{group},dc=example\nobjectClass: groupOfNames\ncn: g{group}\n").unwrap();
        for i in (group..*PEOPLE).step_by(GROUPS) {
            writeln!(text, "member: uid=u{i:05},ou=people,dc=example").unwrap();
        }
        text.push('\n');
    }
    text
}

fn htpasswd() -> String {
    // Each line has a hash. Most have an unsupported scheme.
    lines(|i| format!("u{i:05}:{}\n", if hash(i).is_empty() { "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=" } else { hash(i) }))
}

fn passwd() -> String {
    lines(|i| {
        format!(
            "u{i:05}:{}:{}:100:Person {i},,,:/home/u{i:05}:/bin/zsh\n",
            if hash(i).is_empty() { "x" } else { hash(i) },
            1000 + i
        )
    })
}

fn openstack() -> String {
    let id = |i: usize| format!("{i:032x}");
    let dump = json!({
        "user": array(|i| json!({"id": id(i), "enabled": 1, "extra": format!("{{\"email\": \"u{i}@example.com\"}}")}), *PEOPLE),
        "local_user": array(|i| json!({"id": i, "user_id": id(i), "domain_id": "default", "name": format!("u{i:05}")}), *PEOPLE),
        "password": array(|i| json!({"local_user_id": i * 100, "password_hash": BCRYPT, "created_at": "2026-01-01"}), *PEOPLE / 100),
        "group": array(|i| json!({"id": id(i), "name": format!("g{i}"), "domain_id": "default"}), GROUPS),
        "user_group_membership": array(|i| json!({"user_id": id(i), "group_id": id(i % GROUPS)}), *PEOPLE),
    });
    dump.to_string()
}

fn kubesphere() -> String {
    let api = "iam.kubesphere.io/v1beta1";
    let user = |i| {
        let spec = json!({"email": format!("u{i:05}@example.com"), "lang": "en", "password": hash(i)});
        json!({"apiVersion": api, "kind": "User", "metadata": {"name": format!("u{i:05}")}, "spec": spec})
    };
    let group = |i| json!({"apiVersion": api, "kind": "Group", "metadata": {"name": format!("g{i}")}});
    let binding = |i| {
        let users: Vec<String> = (i..*PEOPLE).step_by(GROUPS).map(|i| format!("u{i:05}")).collect();
        json!({"apiVersion": api, "kind": "GroupBinding", "groupRef": {"name": format!("g{i}")}, "users": users})
    };
    let all = [array(user, *PEOPLE), array(group, GROUPS), array(binding, GROUPS)];
    let items: Vec<&Value> = all.iter().flat_map(|list| list.as_array().unwrap()).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn rancher() -> String {
    lines(|i| {
        let user = json!({
            "apiVersion": "management.cattle.io/v3", "kind": "User", "metadata": {"name": format!("user-{i:05}")},
            "username": format!("u{i:05}"), "displayName": format!("Person {i}"), "password": hash(i),
            "principalIds": [format!("local://user-{i:05}")],
        });
        format!("{user}\n")
    })
}

fn keycloak() -> String {
    let user = |i| {
        let groups = [format!("/g{}", i % GROUPS)];
        let mut user =
            json!({"username": format!("u{i:05}"), "enabled": true, "firstName": "Person", "groups": groups});
        if !hash(i).is_empty() {
            let secret =
                json!({"value": "W9p4VB8ZXgfL1+fMbFVPhbjsmGoxyQS+a8VSqD9zemU=", "salt": "ICEiIyQlJicoKSorLC0uLw=="});
            let data = json!({"hashIterations": 210_000, "algorithm": "pbkdf2-sha512"});
            let password =
                json!({"type": "password", "secretData": secret.to_string(), "credentialData": data.to_string()});
            user["credentials"] = json!([password]);
        }
        user
    };
    let group = |i| json!({"name": format!("g{i}"), "path": format!("/g{i}"), "subGroups": []});
    json!({"realm": "acme", "users": array(user, *PEOPLE), "groups": array(group, GROUPS)}).to_string()
}

fn openshift() -> String {
    let api = "user.openshift.io/v1";
    let user = |i| {
        let (name, identities) = (format!("u{i:05}"), [format!("ldap:u{i:05}")]);
        json!({"apiVersion": api, "kind": "User", "metadata": {"name": name}, "fullName": format!("Person {i}"),
            "identities": identities})
    };
    let group = |i| {
        let users: Vec<String> = (i..*PEOPLE).step_by(GROUPS).map(|i| format!("u{i:05}")).collect();
        json!({"apiVersion": api, "kind": "Group", "metadata": {"name": format!("g{i}")}, "users": users})
    };
    let identity = |i| {
        let (id, user) = (format!("u{i:05}"), json!({"name": format!("u{i:05}")}));
        let name = json!({"name": format!("ldap:{id}")});
        json!({"apiVersion": api, "kind": "Identity", "metadata": name, "providerName": "ldap", "providerUserName": id, "user": user})
    };
    let all = [array(user, *PEOPLE), array(group, GROUPS), array(identity, *PEOPLE)];
    let items: Vec<&Value> = all.iter().flat_map(|list| list.as_array().unwrap()).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn deckhouse() -> String {
    let user = |i| {
        let spec = json!({"email": format!("u{i:05}@example.com"), "password": hash(i)});
        json!({"apiVersion": "deckhouse.io/v1", "kind": "User", "metadata": {"name": format!("u{i:05}")}, "spec": spec})
    };
    let group = |i| {
        let members: Vec<Value> =
            (i..*PEOPLE).step_by(GROUPS).map(|i| json!({"kind": "User", "name": format!("u{i:05}")})).collect();
        let spec = json!({"name": format!("g{i}"), "members": members});
        json!({"apiVersion": "deckhouse.io/v1alpha1", "kind": "Group", "metadata": {"name": format!("g{i}")}, "spec": spec})
    };
    let all = [array(user, *PEOPLE), array(group, GROUPS)];
    let items: Vec<&Value> = all.iter().flat_map(|list| list.as_array().unwrap()).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn dex() -> String {
    lines(|i| {
        let (username, email) = (format!("u{i:05}"), format!("u{i:05}@example.com"));
        let password = json!({
            "apiVersion": "dex.coreos.com/v1", "kind": "Password", "metadata": {"name": username}, "username": username,
            "email": email, "hash": hash(i),
        });
        format!("{password}\n")
    })
}

/// Generates the content of a file.
type Content = fn() -> String;

/// Returns the import command with its flags.
fn import(cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .arg("import")
        .args(args)
        .env("KUBECONFIG", &cluster.plane.kubectl.kubeconfig)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn succeeds(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().last().unwrap_or_default().to_owned()
}

/// Returns the declared part of an object, to compare objects.
fn spec_of(object: &Value) -> Value {
    json!([object["spec"], object["data"], object["metadata"]["labels"], object["metadata"]["annotations"]])
}

type Objects = BTreeMap<String, Value>;

fn written(folder: &Path) -> Objects {
    let files =
        ["groups", "users"].into_iter().flat_map(|name| std::fs::read_dir(folder.join(name)).unwrap().flatten());
    let mut objects = Objects::new();
    for file in files {
        let text = std::fs::read_to_string(file.path()).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object: Value = serde::Deserialize::deserialize(document).unwrap();
            let key = format!("{}/{}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
            objects.insert(key, object);
        }
    }
    objects
}

async fn all<K: Resource<DynamicType = ()>>(api: Api<DynamicObject>, objects: &mut Objects) {
    let mut params = ListParams::default().limit(1000);
    loop {
        let page = api.list(&params).await.unwrap();
        for object in page.items {
            let key = format!("{}/{}", K::kind(&()), object.metadata.name.as_deref().unwrap());
            objects.insert(key, serde_json::to_value(object).unwrap());
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return,
        }
    }
}

fn resource<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}

async fn list_objects(client: &Client) -> Objects {
    let mut objects = Objects::new();
    all::<User>(Api::all_with(client.clone(), &resource::<User>()), &mut objects).await;
    all::<Group>(Api::all_with(client.clone(), &resource::<Group>()), &mut objects).await;
    all::<Secret>(Api::namespaced_with(client.clone(), "people", &resource::<Secret>()), &mut objects).await;
    objects
}

/// Returns the number of Users with one small request.
async fn count(client: &Client) -> usize {
    let page = Api::<User>::all(client.clone()).list(&ListParams::default().limit(1)).await.unwrap();
    page.items.len() + usize::try_from(page.metadata.remaining_item_count.unwrap_or_default()).unwrap()
}

/// Kills the import once half of the users exist.
async fn kill_halfway(client: &Client, mut child: Child) -> usize {
    let deadline = Instant::now() + Duration::from_secs(300);
    while count(client).await < *PEOPLE / 2 {
        assert!(child.try_wait().unwrap().is_none(), "the import has ended before it was half done");
        assert!(Instant::now() < deadline, "the import makes no progress");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    count(client).await
}

async fn clear(client: &Client) {
    let (delete, list) = (DeleteParams::default(), ListParams::default());
    Api::<User>::all(client.clone()).delete_collection(&delete, &list).await.unwrap();
    Api::<Group>::all(client.clone()).delete_collection(&delete, &list).await.unwrap();
    Api::<Secret>::namespaced(client.clone(), "people").delete_collection(&delete, &list).await.unwrap();
}

/// Checks that stored objects have every field of the manifests. They may also have defaults.
fn assert_equal(expected: &Objects, found: &Objects, format: &str) {
    assert!(
        expected.keys().eq(found.keys()),
        "{format}: {} objects are written and {} exist",
        expected.len(),
        found.len()
    );
    for (key, object) in expected {
        assert!(contains(&spec_of(&found[key]), &spec_of(object)), "{format}: {key}");
    }
}

fn contains(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().all(|(name, value)| found.get(name).is_some_and(|found| contains(found, value)))
        }
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, expected)| contains(found, expected))
        }
        (found, expected) => found == expected,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_import_of_each_format_completes_on_retry() {
    // CRDs without an operator, so that only the import writes.
    let cluster = Cluster::create("scale-import", &["passwordAdmission=false"]);
    cluster.kubectl(&["create", "namespace", "people"]);
    let client = cluster.client().await;
    let dir = cluster.plane.dir.clone();
    let formats: [(&str, Content); 12] = [
        ("csv", csv),
        ("json", json_lines),
        ("ldif", ldif),
        ("htpasswd", htpasswd),
        ("openstack", openstack),
        ("kubesphere", kubesphere),
        ("rancher", rancher),
        ("keycloak", keycloak),
        ("openshift", openshift),
        ("deckhouse", deckhouse),
        ("dex", dex),
        ("passwd", passwd),
    ];
    for (format, content) in formats {
        let started = Instant::now();
        let (file, folder) = (dir.join(format!("people.{format}")), dir.join(format!("written-{format}")));
        std::fs::write(&file, content()).unwrap();
        let flags =
            ["--from", format, "--secret-namespace", "people", "--without-unusable-hashes", file.to_str().unwrap()];
        let args = |more: &[&'static str]| import(&cluster, &[&flags[..], more].concat());

        let mut one_run = args(&["--write"]);
        one_run.arg(&folder);
        succeeds(one_run);
        // Its output is not read, which must not stop it.
        let child = args(&["--apply"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let half = kill_halfway(&client, child).await;
        assert!(half < *PEOPLE, "{format}: all users existed already");
        let resumed = succeeds(args(&["--apply"]));
        let same: usize = resumed.split(" unchanged").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        assert!(same >= half.saturating_sub(1), "{format}: existing objects were written again: {resumed}");

        let expected = written(&folder);
        assert_equal(&expected, &list_objects(&client).await, format);
        let again = succeeds(args(&["--apply"]));
        assert!(again.starts_with("0 created, 0 changed, "), "{format}: {again}");
        println!(
            "import of {people} from {format}: killed at {half}, then {resumed}; {} objects as one run writes them, in {:.1?}",
            expected.len(),
            started.elapsed(),
            people = *PEOPLE,
        );
        clear(&client).await;
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
