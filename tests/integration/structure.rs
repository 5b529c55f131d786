//! Modules of a crate do not import each other in cycles, directly or indirectly. Between crates, the compiler enforces
//! this.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;
use roster_harness::project_root;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemUse, UseTree, Visibility};

/// Path of a module within its crate; empty for the root.
type Module = Vec<String>;

/// Files of a crate by module, except those that contain only tests.
fn modules(src: &Path) -> BTreeMap<Module, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut module: Module = path
                .with_extension("")
                .strip_prefix(src)
                .unwrap()
                .iter()
                .map(|part| part.to_str().unwrap().to_owned())
                .collect();
            if module.iter().any(|part| part == "tests" || part.ends_with("_tests")) {
                continue;
            }
            if matches!(module.last().unwrap().as_str(), "mod" | "lib" | "main") {
                module.pop();
            }
            found.insert(module, path);
        }
    }
    found
}

/// Collects which modules a file names.
struct Imports<'a> {
    modules: &'a BTreeMap<Module, PathBuf>,
    module: &'a Module,
    found: BTreeSet<Module>,
}

impl Imports<'_> {
    /// Resolves the longest prefix of a path that names a module.
    fn name(&mut self, path: &[String]) {
        let mut path = path.iter().map(String::as_str).peekable();
        let mut module = match path.peek() {
            Some(&"crate") => Module::new(),
            Some(&("self" | "super")) => self.module.clone(),
            Some(first) if self.modules.contains_key(&self.child(first)) => self.module.clone(),
            _ => return,
        };
        while let Some(step @ ("crate" | "self" | "super")) = path.peek().copied() {
            if step == "super" {
                module.pop();
            }
            path.next();
        }
        for part in path {
            module.push(part.to_owned());
            if !self.modules.contains_key(&module) {
                module.pop();
                break;
            }
        }
        if module != *self.module {
            self.found.insert(module);
        }
    }

    fn child(&self, name: &str) -> Module {
        [self.module.as_slice(), &[name.to_owned()]].concat()
    }

    fn tree(&mut self, mut prefix: Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.tree(prefix, &path.tree);
            }
            UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(prefix.clone(), item)),
            UseTree::Name(name) => self.name(&[prefix, vec![name.ident.to_string()]].concat()),
            UseTree::Rename(rename) => self.name(&[prefix, vec![rename.ident.to_string()]].concat()),
            UseTree::Glob(_) => self.name(&prefix),
        }
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|argument| argument == "test")
    })
}

impl<'ast> Visit<'ast> for Imports<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(module) => &module.attrs,
            Item::Fn(function) => &function.attrs,
            Item::Use(import) => &import.attrs,
            Item::Impl(implementation) => &implementation.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, import: &'ast ItemUse) {
        self.tree(Vec::new(), &import.tree);
    }

    // `pub(super)` names the parent, and imports nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.name(&path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>());
        visit::visit_path(self, path);
    }
}

/// Returns the groups of modules of a crate that import each other, directly or indirectly.
fn cycles(src: &Path) -> Vec<Vec<String>> {
    let modules = modules(src);
    let names: Vec<&Module> = modules.keys().collect();
    let number = |module: &Module| names.binary_search(&module).unwrap();
    let mut graph = DiGraphMap::<usize, ()>::new();
    for (module, path) in &modules {
        let file = syn::parse_file(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut imports = Imports { modules: &modules, module, found: BTreeSet::new() };
        imports.visit_file(&file);
        for import in &imports.found {
            graph.add_edge(number(module), number(import), ());
        }
    }
    let cycles = tarjan_scc(&graph).into_iter().filter(|group| group.len() > 1);
    let name = |module: &usize| format!("crate::{}", names[*module].join("::"));
    cycles.map(|group| group.iter().map(name).collect()).collect()
}

#[test]
fn no_modules_import_each_other() {
    let root = project_root();
    let crates = std::fs::read_dir(root.join("crates")).unwrap().flatten().map(|entry| entry.path());
    let sources: Vec<PathBuf> = crates
        .chain([root.clone(), root.join("tests/harness"), root.join("benches/comparison")])
        .map(|path| path.join("src"))
        .collect();
    let found: Vec<String> = sources
        .iter()
        .flat_map(|src| cycles(src).into_iter().map(|cycle| format!("{}: {}", src.display(), cycle.join(", "))))
        .collect();
    assert!(found.is_empty(), "modules that import each other:\n{}", found.join("\n"));
}

#[test]
fn modules_that_import_each_other_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("lib.rs", "mod a;\nmod b;\nmod c;\npub use c::C;\n");
    write("a.rs", "pub struct A(crate::b::B);\n#[cfg(test)]\nmod tests { use crate::C; }\n");
    write("b.rs", "use super::a::{A};\npub struct B(Option<Box<A>>);\n");
    write("c.rs", "use super::b::B;\npub struct C(B);\n");
    let found = cycles(folder.path());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(BTreeSet::from_iter(&found[0]), BTreeSet::from_iter(&["crate::a".to_owned(), "crate::b".to_owned()]));
}
