//! Generates users, groups and role bindings from a seed, so that every run measures the same objects.

use roster_api::{PASSWORD_SECRET_TYPE, USER_ANNOTATION};
use serde_json::{Value, json};

const FIRST: [&str; 12] =
    ["Ada", "Grace", "Edsger", "Barbara", "Donald", "Frances", "Alan", "Hedy", "Niklaus", "Radia", "Leslie", "Joan"];
const LAST: [&str; 12] = [
    "Lovelace", "Hopper", "Dijkstra", "Liskov", "Knuth", "Allen", "Turing", "Lamarr", "Wirth", "Perlman", "Lamport",
    "Clarke",
];
const ZONES: [&str; 4] = ["eu-west", "eu-east", "us", "asia"];
const TIMEZONES: [&str; 4] = ["Europe/Paris", "Europe/Warsaw", "America/New_York", "Asia/Tokyo"];

/// Departments. Each user is in one of them, so that even page 500 of a query by group is full at 100,000 users.
const DEPARTMENTS: u64 = 5;

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[usize::try_from(self.below(words.len() as u64)).expect("an index")]
    }
}

/// A number of users, and the numbers of other objects for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Population {
    /// Number of users.
    pub users: u64,
}

impl Population {
    /// Returns the number of groups: one per ten users.
    pub(crate) fn groups(self) -> u64 {
        (self.users / 10).max(DEPARTMENTS + 2)
    }

    /// Returns the number of role bindings: one per hundred users.
    pub(crate) fn bindings(self) -> u64 {
        (self.users / 100).max(5)
    }

    /// Returns the number of namespaces: one per twenty users.
    pub(crate) fn namespaces(self) -> u64 {
        (self.users / 20).max(5)
    }

    /// Returns the name of a user.
    pub(crate) fn name(at: u64) -> String {
        format!("user-{at:06}")
    }

    /// Returns the email of a user.
    pub(crate) fn email(at: u64) -> String {
        format!("user-{at:06}@example.com")
    }

    /// Returns the name of a group. The first groups are the departments.
    pub(crate) fn group(at: u64) -> String {
        if at < DEPARTMENTS { format!("department-{at}") } else { format!("team-{at:05}") }
    }

    /// Returns the manifest of a user, and the status that the controllers would write.
    pub(crate) fn user(self, at: u64) -> (Value, Value) {
        let mut random = Random(at.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x0526_1991);
        let name = Self::name(at);
        let (first, last) = (random.of(&FIRST), random.of(&LAST));
        let zone = usize::try_from(random.below(4)).expect("an index");
        let state = if random.below(20) == 0 { "Disabled" } else { "Active" };
        let teams = self.groups() - DEPARTMENTS;
        let team = random.below(teams);
        let other = (team + 1 + random.below(teams - 1)) % teams;
        let groups = [random.below(DEPARTMENTS), DEPARTMENTS + team, DEPARTMENTS + other].map(Self::group);
        let login = 1_790_000_000 + i64::try_from(random.below(30_000_000)).expect("a time");
        let login = jiff::Timestamp::from_second(login).expect("a time").to_string();
        let user = json!({
            "apiVersion": "roster.dev/v1alpha1", "kind": "User",
            "metadata": {"name": name, "labels": {"example.com/office": format!("office-{}", random.below(50))}},
            "spec": {"email": Self::email(at), "displayName": format!("{first} {last} {at}"), "firstName": first,
                "lastName": format!("{last} {at}"), "language": "en", "timezone": TIMEZONES[zone], "zone": ZONES[zone],
                "domain": format!("domain-{}", random.below(20)), "state": state, "groups": groups},
        });
        let condition = |kind: &str, reason: &str, message: &str| {
            json!({"type": kind, "status": "True", "reason": reason, "message": message, "observedGeneration": 1,
                "lastTransitionTime": "2026-11-22T00:00:00Z"})
        };
        let status = json!({"status": {
            "observedGeneration": 1, "username": name, "state": state, "groups": groups, "lastLoginTime": login,
            "conditions": [condition("NameClaimed", "Claimed", "the username and all emails are held"),
                condition("CredentialReady", "PasswordSet", "a password is set"),
                condition("Ready", "Succeeded", "the names are held and the credential is as declared")],
        }});
        (user, status)
    }

    /// Text within the display names of about one user in a thousand.
    pub(crate) const TEXT_WITHIN: &str = "lace 50";

    /// Returns the manifest of a group.
    pub(crate) fn group_object(at: u64) -> Value {
        json!({"apiVersion": "roster.dev/v1alpha1", "kind": "Group", "metadata": {"name": Self::group(at)},
            "spec": {"displayName": format!("Group {at}"), "acceptDeclaredMembers": true}})
    }

    /// Returns the name of a namespace.
    pub(crate) fn namespace(at: u64) -> String {
        format!("project-{at:05}")
    }

    /// Returns the manifest of a role binding that gives a group a role in three namespaces.
    pub(crate) fn binding(self, at: u64) -> Value {
        let role = ["view", "edit"][usize::try_from(at % 2).expect("an index")];
        let namespaces: Vec<_> = (0..3).map(|i| Self::namespace((at * 3 + i) % self.namespaces())).collect();
        json!({"apiVersion": "roster.dev/v1alpha1", "kind": "RoleBinding", "metadata": {"name": format!("binding-{at:04}")},
            "spec": {"subjects": [{"kind": "Group", "name": Self::group(at % self.groups())}],
                "roleRef": {"kind": "ClusterRole", "name": role}, "scope": {"namespaces": namespaces}}})
    }

    /// Returns a password Secret and the manifest of a user that refers to it. `key`: `password` or `passwordHash`.
    pub(crate) fn with_password(name: &str, key: &str, value: &str) -> [Value; 2] {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": PASSWORD_SECRET_TYPE,
            "metadata": {"name": name, "namespace": "default", "annotations": {USER_ANNOTATION: name}},
            "stringData": {key: value}});
        let user = json!({"apiVersion": "roster.dev/v1alpha1", "kind": "User", "metadata": {"name": name},
            "spec": {"email": format!("{name}@example.com"),
                "passwordSecretRef": {"namespace": "default", "name": name}}});
        [secret, user]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_users_are_reproducible() {
        let population = Population { users: 1000 };
        assert_eq!(population.user(7), population.user(7));
        let groups: std::collections::BTreeSet<_> = (0..1000)
            .flat_map(|at| {
                population.user(at).0["spec"]["groups"]
                    .as_array()
                    .unwrap()
                    .clone()
                    .into_iter()
                    .map(|group| group.to_string())
            })
            .collect();
        assert_eq!(groups.len(), 100);
    }
}
