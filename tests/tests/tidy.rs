//! Rules about the sources that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 800;

/// Which crates of ours each crate may depend on, apart from in its tests.
const IMPORTS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("ports", &["types"]),
    ("log", &["types", "ports"]),
    ("hub", &["types", "ports"]),
    ("auth", &["types", "ports"]),
    ("adapters", &["types", "ports"]),
    ("client", &["types"]),
    (
        "server",
        &["types", "ports", "log", "hub", "auth", "adapters", "client"],
    ),
];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the tests are in the workspace")
        .to_owned()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn each_source(mut check: impl FnMut(&str) -> Option<String>) -> Vec<String> {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    assert!(files.len() > 20, "the sources are found");
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source is UTF-8");
        if let Some(reason) = check(&text) {
            wrong.push(format!("{}: {reason}", file.display()));
        }
    }
    wrong
}

#[test]
fn no_file_is_so_long_that_it_is_two() {
    let long = each_source(|text| {
        let lines = text.lines().count();
        (lines > LINES_MAX).then(|| format!("{lines} lines"))
    });
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn no_lint_is_silenced_without_a_reason_and_no_test_is_left_out() {
    // Written in two parts, or this file would break its own rule.
    let forbidden = [
        concat!("#[", "allow("),
        concat!("#![", "allow("),
        concat!("#[", "ignore"),
    ];
    let wrong = each_source(|text| {
        let found = forbidden.iter().find(|word| text.contains(**word))?;
        Some(format!(
            "{found}: use #[expect(.., reason = \"..\")], or repair the test"
        ))
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn crates_import_only_what_the_layout_permits() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root().join("crates")).expect("the crates") {
        let folder = entry.expect("an entry").path();
        let Ok(manifest) = fs::read_to_string(folder.join("Cargo.toml")) else {
            continue;
        };
        let name = folder
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let (_, permitted) = IMPORTS
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("crates/{name} is not in the table of this test"));
        let ours = dependencies(&manifest);
        wrong.extend(
            ours.iter()
                .filter(|imported| !permitted.contains(&imported.as_str()))
                .map(|imported| format!("{name} imports {imported}")),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Our crates in `[dependencies]`.
fn dependencies(manifest: &str) -> Vec<String> {
    manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.strip_prefix("tidings-"))
        .filter_map(|rest| rest.split(['.', ' ', '=']).next())
        .map(str::to_owned)
        .collect()
}
