//! Import and export with the real program, against a cluster with an operator.

mod identity;
mod memberships;

use std::path::Path;
use std::process::{Command, Output};

use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use roster_api::user::DesiredState;
use roster_api::{Group, User};
use roster_harness::project_root;
use serde_json::{Value, json};

use crate::directory::{Direct, wait_until_served};
use crate::logins::with_password;
use crate::shared_cluster::SharedCluster;
use crate::support::{Cluster, binary, unique, user_where, wait_for_reason, wait_for_text, wait_until_ready};

/// Password of all users in `examples/import`.
const PASSWORD: &str = "correct horse battery staple";
const BCRYPT: &str = "$2b$10$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW";

fn cluster() -> &'static Cluster {
    static CLUSTER: SharedCluster = SharedCluster::new(|| {
        let cluster = Cluster::create("import", &[]);
        cluster.start_operator(&[]);
        wait_until_served(&cluster);
        cluster.kubectl(&["create", "namespace", "people"]);
        cluster
    });
    CLUSTER.get()
}

fn roster(args: &[&str]) -> Output {
    roster_with(&cluster().plane.kubectl.kubeconfig, args)
}

fn roster_with(kubeconfig: &Path, args: &[&str]) -> Output {
    Command::new(binary()).args(args).current_dir(project_root()).env("KUBECONFIG", kubeconfig).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn succeeds(args: &[&str]) -> String {
    let output = roster(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn last_line(output: &str) -> &str {
    output.lines().last().unwrap_or_default()
}

/// A file below the cluster's folder.
fn file(name: &str, content: &str) -> String {
    let path = cluster().plane.dir.join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn delete(names: &[&str]) {
    let (users, secrets) = (cluster().users().await, cluster().secrets("people").await);
    for name in names {
        users.delete(name, &DeleteParams::default()).await.unwrap();
        let _ = secrets.delete(&format!("{name}-password"), &DeleteParams::default()).await;
        crate::support::eventually("the user is gone", || async {
            match users.get_opt(name).await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

/// A format, its file and flags, the imported users, and those of them that log in.
type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);

#[tokio::test(flavor = "multi_thread")]
async fn users_of_every_format_are_imported_and_log_in() {
    let direct = Direct::new(cluster(), 0, None).await;
    let users = cluster().users().await;
    let formats: &[Case] = &[
        ("csv", &["people.csv"], &["ada", "charles", "mary.somerville-example.com"], &["ada", "charles@example.com"]),
        ("json", &["people.json"], &["katherine", "dorothy"], &["katherine"]),
        ("ldif", &["people.ldif"], &["grace", "alan"], &["g.hopper@example.com"]),
        ("htpasswd", &["htpasswd"], &["hedy", "george"], &["hedy", "george"]),
        ("openstack", &["keystone.json"], &["ada", "bob", "eve"], &["ada"]),
        ("openstack", &["keystone.sql"], &["ada", "bob", "eve"], &["ada"]),
        ("kubesphere", &["kubesphere.yaml"], &["lin", "mei"], &["lin"]),
        ("rancher", &["rancher.yaml"], &["admin", "u-dana5"], &["admin"]),
        ("keycloak", &["keycloak.json"], &["agnes", "boris", "carl"], &["agnes", "carl"]),
        ("openshift", &["openshift.yaml"], &["ines", "theo", "vera"], &["theo", "vera"]),
        ("deckhouse", &["deckhouse.yaml"], &["petra", "ravi"], &["petra@example.com"]),
        ("dex", &["dex.yaml"], &["nadia", "omar-example.com"], &["nadia", "omar@example.com"]),
        (
            "passwd",
            &["passwd", "--group-file", "examples/import/group", "--shadow-file", "examples/import/shadow"],
            &["linus", "margaret"],
            &["linus"],
        ),
    ];
    for (format, args, people, logins) in formats {
        let path = format!("examples/import/{}", args[0]);
        let flags = ["import", "--from", format, "--secret-namespace", "people", &path];
        let apply = [&flags[..], &args[1..], &["--apply"]].concat();
        let applied = succeeds(&apply);
        assert!(last_line(&applied).contains("0 changed"), "{applied}");
        for name in *people {
            wait_until_ready(&users, name).await;
        }
        for login in *logins {
            let answer = with_password(&direct, login, PASSWORD).await;
            // Only users who must change the password first are challenged.
            let must_change = answer.body.contains("must be changed") || answer.body.contains("PasswordChangeRequired");
            assert!(answer.status == 201 || (*format == "rancher" && must_change), "{format} {login}: {}", answer.body);
        }
        assert!(last_line(&succeeds(&apply)).starts_with("0 created, 0 changed, "));
        delete(people).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_shows_what_would_change_and_no_hash() {
    let (ada, bob) = (unique("preview"), unique("preview"));
    let rows = |zone: &str| format!("username,zone,hash\n{ada},{zone},{BCRYPT}\n{bob},eu,\n");
    let path = file("preview.csv", &rows("eu"));
    let args = ["import", "--from", "csv", "--secret-namespace", "people", &path];
    let shown = succeeds(&args);
    assert_eq!(last_line(&shown), "2 to create, 0 to change, 0 unchanged, 0 rejected");
    assert!(shown.contains("+  passwordHash: bcrypt…") && shown.contains(&format!("+++ users/{ada}")), "{shown}");
    assert!(!shown.contains("Crp.JRmP") && cluster().users().await.get_opt(&ada).await.unwrap().is_none());

    succeeds(&[&args[..], &["--apply"]].concat());
    assert_eq!(last_line(&succeeds(&args)), "0 to create, 0 to change, 2 unchanged, 0 rejected");
    file("preview.csv", &rows("us"));
    let shown = succeeds(&args);
    assert_eq!(last_line(&shown), "0 to create, 1 to change, 1 unchanged, 0 rejected");
    assert!(shown.contains("-  zone: eu\n+  zone: us\n"), "{shown}");
    // A field that the file no longer has is removed.
    file("preview.csv", &format!("username,hash\n{ada},{BCRYPT}\n{bob},\n"));
    assert_eq!(
        last_line(&succeeds(&[&args[..], &["--apply"]].concat())),
        "0 created, 2 changed, 0 unchanged, 0 rejected"
    );
    user_where(&cluster().users().await, &ada, "without a zone", |user| user.spec.zone.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_other_managers_are_not_taken_over_by_default() {
    let name = unique("conflict");
    let path = file("conflict.csv", &format!("username,zone\n{name},eu\n"));
    let args = ["import", "--from", "csv", &path, "--apply"];
    succeeds(&args);
    let users = cluster().users().await;
    let patch = json!({"apiVersion": "roster.dev/v1alpha1", "kind": "User", "spec": {"zone": "us"}});
    let params = PatchParams::apply("somebody").force();
    users.patch(&name, &params, &Patch::Apply(&patch)).await.unwrap();
    let output = roster(&args);
    assert!(!output.status.success());
    let told = text(&output.stderr);
    assert!(told.contains(&format!("{path}:2: User {name}: ")) && told.contains("--force-conflicts"), "{told}");
    assert_eq!(users.get(&name).await.unwrap().spec.zone.as_deref(), Some("us"));
    succeeds(&[&args[..], &["--force-conflicts"]].concat());
    assert_eq!(users.get(&name).await.unwrap().spec.zone.as_deref(), Some("eu"));
}

#[tokio::test(flavor = "multi_thread")]
async fn case_a19_an_existing_group_or_user_with_another_title_is_not_joined() {
    let (group, user, ada) = (unique("a19-group"), unique("a19-user"), unique("a19-ada"));
    let manifests = format!(
        "{{apiVersion: roster.dev/v1alpha1, kind: Group, metadata: {{name: {group}}}, spec: {{}}}}\n---\n\
         {{apiVersion: roster.dev/v1alpha1, kind: User, metadata: {{name: {user}}}, spec: {{}}}}\n"
    );
    cluster().kubectl(&["apply", "-f", &file("a19.yaml", &format!("---\n{manifests}"))]);
    let title = format!("{group}*");
    let path = file("a19.csv", &format!("username,groups\n{ada},{title}\n{},\n", user.replace('-', "_")));
    let args = ["import", "--from", "csv", &path, "--accept-existing-users"];
    for more in [&[][..], &["--apply"]] {
        let output = roster(&[&args[..], more].concat());
        let reported = text(&output.stderr);
        assert!(!output.status.success(), "{reported}");
        assert!(
            reported.contains(&format!("{path}:2: Group {group} already exists as {group:?}, and this import")),
            "{reported}"
        );
        assert!(
            reported.contains(&format!("{path}:3: User {user} already exists with the username {user:?}")),
            "{reported}"
        );
    }
    let users = cluster().users().await;
    assert!(users.get_opt(&ada).await.unwrap().is_none());
    assert_eq!(users.get(&user).await.unwrap().spec.username, None);

    // Both are the same group.
    let groups = Api::<Group>::all(cluster().client().await);
    let patch = json!({"spec": {"displayName": title}});
    groups.patch(&group, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let path = file("a19.csv", &format!("username,groups\n{ada},{title}\n"));
    let args = ["import", "--from", "csv", &path, "--accept-existing-users", "--force-conflicts", "--apply"];
    assert_eq!(last_line(&succeeds(&args)), "1 created, 1 changed, 0 unchanged, 0 rejected");
    assert_eq!(users.get(&ada).await.unwrap().spec.groups, [group]);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_a19_a_group_of_another_source_is_not_joined() {
    let (name, ann, ben) = (unique("a19-source"), unique("a19-ann"), unique("a19-ben"));
    let ldif = |user: &str, unit: &str| {
        format!(
            "dn: uid={user},dc=example\nobjectClass: person\nuid: {user}\nmemberOf: cn={name},ou={unit},dc=example\n"
        )
    };
    let first = file("a19-first.ldif", &ldif(&ann, "apollo"));
    assert_eq!(
        last_line(&succeeds(&["import", "--from", "ldif", &first, "--apply"])),
        "2 created, 0 changed, 0 unchanged, 0 rejected"
    );
    let second = file("a19-second.ldif", &ldif(&ben, "gemini"));
    let output = roster(&["import", "--from", "ldif", &second, "--apply"]);
    let reported = text(&output.stderr);
    let says = format!("User {ben} is not applied: it would join Group {name}, which is not applied");
    assert!(!output.status.success() && reported.contains(&says), "{reported}");
    assert!(
        reported.contains(&format!("Group {name} already exists for ldap:cn={name},ou=apollo,dc=example")),
        "{reported}"
    );
    // With both in one file, the first one keeps its Group, and only the other one gets a name with a suffix.
    let disabled = ldif(&ann, "apollo") + "nsAccountLock: true\n";
    let both = file("a19-both.ldif", &format!("{disabled}\n{}", ldif(&ben, "gemini")));
    let output = roster(&["import", "--from", "ldif", &both, "--apply"]);
    let reported = text(&output.stderr);
    assert!(output.status.success(), "{reported}");
    assert!(reported.contains(&format!("several groups have the name {name}")), "{reported}");
    let users = cluster().users().await;
    let (ann, ben) = (users.get(&ann).await.unwrap(), users.get(&ben).await.unwrap());
    assert_eq!((ann.spec.groups, ann.spec.state), (vec![name.clone()], DesiredState::Disabled));
    assert!(ben.spec.groups.len() == 1 && !ben.spec.groups.contains(&name));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_users_join_imported_groups_only_with_a_flag() {
    let [ada, bob, eve, group] = ["ada", "bob", "eve", "group"].map(|what| unique(&format!("waiting-{what}")));
    let users = cluster().users().await;
    let groups = Api::<Group>::all(cluster().client().await);
    let mut planted = crate::support::user(&eve, false);
    planted.spec.groups = vec![group.clone()];
    crate::support::create(&users, &planted).await;
    let path = file("waiting.csv", &format!("username,groups\n{ada},{group}\n"));
    let args = ["import", "--from", "csv", &path];
    let accepting = [&args[..], &["--accept-existing-users"]].concat();
    let waits = format!(
        "{path}:2: Group {group} would accept 1 existing User that this import does not add to it: {eve}; this \
         requires --accept-existing-users\n"
    );
    let held = format!("{path}:2: User {ada} is not applied: it would join Group {group}, which is not applied\n");

    let preview = roster(&args);
    assert!(!preview.status.success());
    let told = text(&preview.stderr);
    assert!(told.starts_with(&waits) && told.ends_with(&held), "{told}");
    assert_eq!(last_line(&text(&preview.stdout)), "0 to create, 0 to change, 0 unchanged, 0 rejected, 2 failed");
    assert_eq!(last_line(&succeeds(&accepting)), "2 to create, 0 to change, 0 unchanged, 0 rejected");

    let applied = roster(&[&args[..], &["--apply"]].concat());
    assert!(!applied.status.success());
    let told = text(&applied.stderr);
    assert!(told.starts_with(&waits) && told.ends_with(&held), "{told}");
    assert!(users.get_opt(&ada).await.unwrap().is_none() && groups.get_opt(&group).await.unwrap().is_none());

    // Without a cluster, existing Users can't be checked.
    let folder = cluster().plane.dir.join("waiting");
    let write = ["--write", folder.to_str().unwrap()];
    let written = roster(&[&args[..], &write].concat());
    assert!(
        written.status.success()
            && text(&written.stderr).starts_with("warning: Groups that accept declared members: 1")
    );
    assert_eq!(text(&roster(&[&accepting[..], &write].concat()).stderr), "");

    assert_eq!(
        last_line(&succeeds(&[&accepting[..], &["--apply"]].concat())),
        "2 created, 0 changed, 0 unchanged, 0 rejected"
    );
    for name in [&ada, &eve] {
        wait_for_text(cluster(), &["users.roster.dev", name], "{.status.groups[*]}", &group).await;
    }
    // The Group accepts them now, so a further import needs no flag.
    file("waiting.csv", &format!("username,groups\n{bob},{group}\n"));
    assert_eq!(
        last_line(&succeeds(&[&args[..], &["--apply"]].concat())),
        "1 created, 0 changed, 1 unchanged, 0 rejected"
    );
}

/// Someone else may have created the User and know its credentials.
#[tokio::test(flavor = "multi_thread")]
async fn existing_users_gain_nothing_from_an_import_without_a_flag() {
    let [ada, bob, group, other] = ["ada", "bob", "group", "other"].map(|what| unique(&format!("planted-{what}")));
    let users = cluster().users().await;
    crate::support::create(&users, &crate::support::user(&ada, false)).await;
    let path = file("planted.csv", &format!("username,groups,zone\n{ada},{group},eu\n{bob},{group},eu\n"));
    let args = ["import", "--from", "csv", &path];
    let accepting = [&args[..], &["--accept-existing-users"]].concat();
    let says = format!(
        "{path}:2: User {ada} already exists, and this import would add it to Group {group}; this requires \
         --accept-existing-users\n"
    );
    let preview = roster(&args);
    assert!(!preview.status.success());
    assert!(text(&preview.stderr).starts_with(&says), "{}", text(&preview.stderr));
    assert_eq!(last_line(&text(&preview.stdout)), "2 to create, 0 to change, 0 unchanged, 0 rejected, 1 failed");
    let applied = roster(&[&args[..], &["--apply"]].concat());
    assert!(!applied.status.success() && text(&applied.stderr).starts_with(&says), "{}", text(&applied.stderr));
    assert_eq!(last_line(&text(&applied.stdout)), "2 created, 0 changed, 0 unchanged, 0 rejected, 1 failed");
    // The other person is imported.
    assert_eq!(users.get(&bob).await.unwrap().spec.groups, std::slice::from_ref(&group));
    assert_eq!((users.get(&ada).await.unwrap().spec.groups, users.get(&ada).await.unwrap().spec.zone), (vec![], None));
    // Without Groups, there is nothing to gain. An earlier import of the User proves nothing.
    file("planted.csv", &format!("username,zone\n{ada},eu\n"));
    assert_eq!(
        last_line(&succeeds(&[&args[..], &["--apply"]].concat())),
        "0 created, 1 changed, 0 unchanged, 0 rejected"
    );
    file("planted.csv", &format!("username,groups,zone\n{ada},{group},eu\n{bob},{group},eu\n"));
    let laundered = roster(&[&args[..], &["--apply"]].concat());
    assert!(!laundered.status.success() && text(&laundered.stderr).starts_with(&says), "{}", text(&laundered.stderr));
    assert!(users.get(&ada).await.unwrap().spec.groups.is_empty());
    let named = format!("--accept-existing-users={bob},{ada}");
    assert!(!roster(&[&args[..], &["--apply", "--accept-existing-users=other"]].concat()).status.success());
    assert_eq!(
        last_line(&succeeds(&[&args[..], &["--apply", &named]].concat())),
        "0 created, 1 changed, 2 unchanged, 0 rejected"
    );
    // Neither repeating the import nor removing something needs the flag.
    assert_eq!(
        last_line(&succeeds(&[&args[..], &["--apply"]].concat())),
        "0 created, 0 changed, 3 unchanged, 0 rejected"
    );
    file("planted.csv", &format!("username,groups\n{ada},{group}\n{bob},\n"));
    assert_eq!(
        last_line(&succeeds(&[&args[..], &["--apply"]].concat())),
        "0 created, 2 changed, 1 unchanged, 0 rejected"
    );
    // Additional Groups need the flag again, even for imported Users.
    file("planted.csv", &format!("username,groups\n{ada},{group};{other}\n{bob},{other}\n"));
    let further = roster(&[&args[..], &["--apply"]].concat());
    let told = text(&further.stderr);
    assert!(!further.status.success(), "{told}");
    for (line, user) in [(2, &ada), (3, &bob)] {
        let says = format!("{path}:{line}: User {user} already exists, and this import would add it to Group {other};");
        assert!(told.contains(&says), "{told}");
    }
    // The Group exists already: it was not what lacked consent.
    assert_eq!(
        last_line(&succeeds(&[&accepting[..], &["--apply"]].concat())),
        "0 created, 2 changed, 2 unchanged, 0 rejected"
    );
}

#[test]
fn rejected_lines_are_reported_and_others_are_imported() {
    let name = unique("rejected");
    let path =
        file("rejected.csv", &format!("username,timezone,password\n{name},UTC,\nbad,Mars/Base,\nplain,,hunter2\n"));
    let rejects = cluster().plane.dir.join("rejects.csv");
    let args = ["import", "--from", "csv", &path, "--apply", "--rejects", rejects.to_str().unwrap()];
    let output = roster(&args);
    assert!(!output.status.success());
    assert_eq!(text(&output.stdout), "1 created, 0 changed, 0 unchanged, 2 rejected\n");
    let told = text(&output.stderr);
    assert!(told.contains(&format!("{path}:3: spec.timezone: must be a name of the IANA")), "{told}");
    assert!(told.contains(&format!("{path}:4: password: is plaintext")) && !told.contains("hunter2"), "{told}");
    let written = std::fs::read_to_string(&rejects).unwrap();
    assert!(
        written.starts_with("file,line,who,field,reason\n") && written.contains(",3,bad,spec.timezone,"),
        "{written}"
    );
    assert!(roster(&[&args[..], &["--allow-rejected"]].concat()).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_passwords_are_hashed_once_by_the_importer() {
    let name = unique("plain");
    let path = file("plain.csv", &format!("username,password\n{name},a giraffe in rubber boots\n"));
    let args = ["import", "--from", "csv", &path, "--hash-passwords", "--secret-namespace", "people", "--apply"];
    succeeds(&args);
    let users = cluster().users().await;
    wait_for_reason(&users, &name, "Ready", "Succeeded").await;
    assert_eq!(last_line(&succeeds(&args)), "0 created, 0 changed, 1 unchanged, 0 rejected");
    let direct = Direct::new(cluster(), 0, None).await;
    assert_eq!(with_password(&direct, &name, "a giraffe in rubber boots").await.status, 201);
    let secret = cluster().secrets("people").await.get(&format!("{name}-password")).await.unwrap();
    assert_eq!(secret.data.unwrap().keys().collect::<Vec<_>>(), ["passwordHash"]);
}

/// Written manifests equal applied objects, and exports can be imported again.
#[tokio::test(flavor = "multi_thread")]
async fn exports_equal_imports() {
    let (ada, group) = (unique("export"), unique("export-group"));
    let path = file(
        "export.csv",
        &format!("username,email,groups,hash,quota,extra\n{ada},{ada}@example.com,{group},{BCRYPT},pods=5,a=1;a=2\n"),
    );
    succeeds(&["import", "--from", "csv", "--secret-namespace", "people", &path, "--apply"]);
    let users = cluster().users().await;
    let before = wait_until_ready(&users, &ada).await;
    wait_for_text(cluster(), &["users.roster.dev", &ada], "{.status.groups[*]}", &group).await;
    let declared = |documents: &[Value], kind: &str, name: &str| {
        documents.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name).cloned().unwrap()
    };
    for format in ["json", "yaml", "csv"] {
        let exported = cluster().plane.dir.join(format!("exported.{format}"));
        let exported = exported.to_str().unwrap();
        succeeds(&["export", "--to", format, "--with-hashes", "--output", exported]);
        let folder = cluster().plane.dir.join(format!("written-{format}"));
        // Other tests leave Users whose Secret does not exist.
        succeeds(&["import", "--from", format, exported, "--write", folder.to_str().unwrap(), "--allow-rejected"]);
        let text = std::fs::read_to_string(folder.join(format!("users/{ada}.yaml"))).unwrap();
        let documents: Vec<Value> = serde_yaml::Deserializer::from_str(&text)
            .map(|document| serde::Deserialize::deserialize(document).unwrap())
            .collect();
        let user = declared(&documents, "User", &ada);
        assert_eq!(user["spec"], serde_json::to_value(&before.spec).unwrap(), "{format}");
        let secret = declared(&documents, "Secret", &format!("{ada}-password"));
        let live = cluster().secrets("people").await.get(&format!("{ada}-password")).await.unwrap();
        assert_eq!(secret["data"], serde_json::to_value(live.data).unwrap(), "{format}");
        assert!(folder.join(format!("groups/{group}.yaml")).exists());
    }
    let htpasswd = succeeds(&["export", "--to", "htpasswd", "--with-hashes"]);
    assert!(htpasswd.contains(&format!("{ada}:{BCRYPT}\n")));
    for format in ["csv", "json", "yaml", "ldif", "htpasswd", "passwd"] {
        assert!(
            !succeeds(&["export", "--to", format]).contains("Crp.JRmP"),
            "{format} contains hashes without --with-hashes"
        );
    }
    let groups = Api::<Group>::all(cluster().client().await).list(&ListParams::default()).await.unwrap();
    assert!(groups.items.iter().any(|found| found.metadata.name.as_deref() == Some(group.as_str())));
    let _: Vec<User> = users.list(&ListParams::default()).await.unwrap().items;
}
