//! Fixtures with unique names, and requests as their users.

use crate::support::Cluster;

/// Fixtures in which `{n}` stands for a unique name.
pub(crate) struct Fixtures<'a> {
    pub cluster: &'a Cluster,
    pub n: String,
    /// Prefix of every denial.
    pub refuser: &'static str,
}

impl Fixtures<'_> {
    /// Returns the username of a user of the fixtures. System users are given by their full name.
    pub(crate) fn name(&self, who: &str) -> String {
        if who.starts_with("system:") { who.replace("{n}", &self.n) } else { format!("{}-{who}", self.n) }
    }

    /// Returns kubectl's output as `who`, or the API server's error.
    pub(crate) fn run(&self, who: &str, args: &[&str], input: &str) -> Result<String, String> {
        let who = self.name(who);
        let args: Vec<String> = args.iter().map(|arg| arg.replace("{n}", &self.n)).collect();
        let args: Vec<&str> = ["--as", &who].into_iter().chain(args.iter().map(String::as_str)).collect();
        let printed = self.cluster.plane.kubectl.run_with_input(&args, &input.replace("{n}", &self.n));
        printed.map_err(|error| format!("{error:#}"))
    }

    pub(crate) fn passes(&self, who: &str, args: &[&str], input: &str) {
        self.run(who, args, input).unwrap_or_else(|refusal| panic!("{who} was denied {args:?} {input}: {refusal}"));
    }

    pub(crate) fn refused(&self, who: &str, args: &[&str], input: &str, because: &str) {
        let because = because.replace("{n}", &self.n);
        match self.run(who, args, input) {
            Ok(printed) => panic!("{who} was allowed {args:?} {input}: {printed}"),
            Err(refusal) => assert!(refusal.contains(self.refuser) && refusal.contains(&because), "{refusal}"),
        }
    }
}
