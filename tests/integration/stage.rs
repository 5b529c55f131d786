//! People who try something, under names of their own, and what becomes of it.

use crate::support::Cluster;

/// A place in which `{n}` stands for a name of its own.
pub struct Stage<'a> {
    pub cluster: &'a Cluster,
    pub n: String,
    /// How every refusal begins.
    pub refuser: &'static str,
}

impl Stage<'_> {
    /// The username of somebody of the stage. Those of the system are named whole.
    pub fn name(&self, who: &str) -> String {
        if who.starts_with("system:") { who.replace("{n}", &self.n) } else { format!("{}-{who}", self.n) }
    }

    /// What kubectl prints when somebody asks for this, or what the API server refuses it with.
    pub fn ask(&self, who: &str, args: &[&str], input: &str) -> Result<String, String> {
        let who = self.name(who);
        let args: Vec<String> = args.iter().map(|arg| arg.replace("{n}", &self.n)).collect();
        let args: Vec<&str> = ["--as", &who].into_iter().chain(args.iter().map(String::as_str)).collect();
        let printed = self.cluster.plane.kubectl.run_with_input(&args, &input.replace("{n}", &self.n));
        printed.map_err(|error| format!("{error:#}"))
    }

    pub fn passes(&self, who: &str, args: &[&str], input: &str) {
        self.ask(who, args, input).unwrap_or_else(|refusal| panic!("{who} can't {args:?} {input}: {refusal}"));
    }

    pub fn refused(&self, who: &str, args: &[&str], input: &str, because: &str) {
        let because = because.replace("{n}", &self.n);
        match self.ask(who, args, input) {
            Ok(printed) => panic!("{who} could {args:?} {input}: {printed}"),
            Err(refusal) => assert!(refusal.contains(self.refuser) && refusal.contains(&because), "{refusal}"),
        }
    }
}
