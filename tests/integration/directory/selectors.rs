//! Label selectors mean what they mean to kube-apiserver.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{directory, encoded, get};
use crate::support::{Cluster, Random, create, eventually, unique, user};

const VALUES: &[&str] = &["", "3", "007", "12", "9223372036854775807", "9223372036854775808", "a", "A", "a-b", "1.5"];

/// Generates selectors: most are valid, and some contain what kube-apiserver rejects.
struct Selectors(Random);

impl Selectors {
    fn pick(&mut self, from: &[&str]) -> String {
        from[usize::try_from(self.0.below(from.len() as u64)).unwrap()].to_owned()
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.0.below(100) < percent
    }

    fn space(&mut self) -> String {
        if self.chance(60) { String::new() } else { self.pick(&[" ", "  ", "\t", "\n", "\r", " \t\r\n"]) }
    }

    fn key(&mut self) -> String {
        if self.chance(92) {
            return self.pick(&["level", "level", "level", "team", "example.com/team", "in", "notin", "absent"]);
        }
        let (long, longer) = ("k".repeat(63), "k".repeat(64));
        self.pick(&["", "-a", "a_", "a/b/c", "/a", "a/", "Example.com/a", "ä", "level.", &long, &longer])
    }

    fn value(&mut self) -> String {
        if self.chance(92) {
            return self.pick(VALUES);
        }
        let (long, longer) = ("v".repeat(63), "v".repeat(64));
        self.pick(&["-1", "+1", "a_", "'a'", "\"a\"", "ä", "a/b", "in", "notin", "0x10", "1e3", "*", &long, &longer])
    }

    fn requirement(&mut self) -> String {
        let (key, before, after) = (self.key(), self.space(), self.space());
        match self.0.below(8) {
            0 => key,
            1 => format!("!{before}{key}"),
            2..5 => {
                let operator = self.pick(&["=", "==", "!=", ">", "<", ">", "<"]);
                format!("{key}{before}{operator}{after}{}", self.value())
            }
            5 | 6 => {
                let operator = self.pick(&["in", "notin"]);
                let values: Vec<String> = (0..self.0.below(4)).map(|_| self.value()).collect();
                format!("{key} {operator}{before}({})", values.join(&format!("{after},")))
            }
            _ => {
                let operator = self.pick(&["===", "=!", ">=", "<=", "=>", "near", "in", "=(", "!", "<>"]);
                format!("{key}{before}{operator}{after}{}", self.value())
            }
        }
    }

    fn selector(&mut self) -> String {
        let count = 1 + self.0.below(3);
        let requirements: Vec<String> = (0..count).map(|_| format!("{}{}", self.space(), self.requirement())).collect();
        let mut selector = requirements.join(",");
        if self.chance(25) {
            let letters: Vec<char> = selector.chars().collect();
            let at = usize::try_from(self.0.below(letters.len() as u64 + 1)).unwrap();
            let (before, after) = letters.split_at(at);
            let more =
                self.pick(&["", "", ",", "(", ")", "=", "!", ">", "<", " ", "\t", "'", "\u{a0}", "\u{b}", "/", "."]);
            // Inserts something, or removes a character.
            let after = &after[usize::from(more.is_empty()).min(after.len())..];
            selector = before.iter().collect::<String>() + &more + &after.iter().collect::<String>();
        }
        selector
    }
}

/// Returns the names in the response, or its status code.
async fn ask(client: &kube::Client, group: &str, domain: &str, selector: &str) -> Result<BTreeSet<String>, u16> {
    let selection = format!("fieldSelector={}", encoded(&format!("spec.domain={domain}")));
    let path = format!("/apis/{group}/v1alpha1/users?{selection}&labelSelector={}", encoded(selector));
    let request = axum::http::Request::get(path).body(Vec::new()).unwrap();
    match client.request::<Value>(request).await {
        Ok(list) => Ok(super::names(&list).into_iter().collect()),
        Err(kube::Error::Api(status)) => Err(status.code),
        Err(error) => panic!("{selector:?}: {error}"),
    }
}

/// Creates users in a separate domain, one for each value of the label `level`, and some without it.
async fn labelled(cluster: &Cluster, domain: &str) {
    let users = cluster.users().await;
    for (at, value) in VALUES.iter().map(|value| Some(*value)).chain([None, None]).enumerate() {
        let mut user = user(&format!("{domain}-{at}"), false);
        user.spec.domain.0 = domain.to_owned();
        let team = ["a", "b"][at % 2].to_owned();
        let labels = [("example.com/team".to_owned(), team.clone()), ("in".to_owned(), "in".to_owned())];
        let level = value.map(|value| ("level".to_owned(), value.to_owned()));
        let teams = (at % 3 > 0).then(|| ("team".to_owned(), team));
        user.metadata.labels = Some(labels.into_iter().chain(level).chain(teams).collect());
        create(&users, &user).await;
    }
    eventually("all are served", || async {
        let served = get(cluster, &format!("users?filterBy=domain,{domain}"))["total"].clone();
        if served == VALUES.len() + 2 { Ok(()) } else { Err(served.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn case_c2_label_selectors_mean_what_they_mean_to_kube_apiserver() {
    let cluster = directory();
    let domain = unique("labelled");
    labelled(cluster, &domain).await;
    let client = cluster.client().await;
    let mut selectors = Selectors(Random(36));
    let fixed =
        ["level>3", "level<9", "level > 3,level<9223372036854775807", "level in (,a)", "level notin ()", "", " "];
    let generated: Vec<String> = (0..600).map(|_| selectors.selector()).collect();
    let (mut accepted, mut narrow) = (0, 0);
    for selector in fixed.iter().map(|selector| (*selector).to_owned()).chain(generated) {
        let (theirs, ours) = tokio::join!(
            ask(&client, "roster.dev", &domain, &selector),
            ask(&client, "directory.roster.dev", &domain, &selector)
        );
        assert_eq!(ours, theirs, "{selector:?}");
        if let Ok(found) = theirs {
            accepted += 1;
            narrow += usize::from(!found.is_empty() && found.len() < VALUES.len() + 2);
        }
    }
    println!("of 607 selectors, kube-apiserver accepts {accepted}, and {narrow} of them match some users");
    assert!(
        (150..550).contains(&accepted) && narrow > 50,
        "valid and invalid selectors must both occur: {accepted}, {narrow}"
    );
    // As many values as fit into a URL.
    let many = format!("level in ({})", (0..2000).map(|at| at.to_string()).collect::<Vec<_>>().join(","));
    let theirs = ask(&client, "roster.dev", &domain, &many).await;
    assert_eq!(ask(&client, "directory.roster.dev", &domain, &many).await, theirs);
}
