//! `cargo xtask bench`: installs the servers that Tidings is measured next to, builds what is measured as it is
//! released, and runs `benches/`, which does the rest.

use std::path::Path;
use std::process::Command;

use crate::{Failure, cargo, root, tools};

/// Debian packages, and a file that each brings. Servers are in folders that only root's PATH has. `setpriv` and
/// `taskset`, which start them, are part of every Debian.
const DEBIAN: &[(&str, &[&str])] = &[
    ("mosquitto", &["/usr/sbin/mosquitto"]),
    ("nginx", &["/usr/sbin/nginx"]),
    (
        "libnginx-mod-nchan",
        &["/usr/lib/nginx/modules/ngx_nchan_module.so"],
    ),
    ("redis-server", &["/usr/bin/redis-server"]),
    (
        "libuv1",
        &[
            "/usr/lib/x86_64-linux-gnu/libuv.so.1",
            "/usr/lib/aarch64-linux-gnu/libuv.so.1",
        ],
    ),
    ("nodejs", &["/usr/bin/node", "/usr/local/bin/node"]),
    ("npm", &["/usr/bin/npm", "/usr/local/bin/npm"]),
    ("python3-venv", &["/usr/bin/python3"]),
];

/// Runs the measurements that are named, or all; `--quick` needs no other server.
pub fn run(arguments: &[String]) -> Result<(), Failure> {
    crate::run(cargo().args([
        "build",
        "--release",
        "--locked",
        "-p",
        "tidings",
        "-p",
        "tidings-benches",
    ]))?;
    let target = root().join("target/release");
    let mut compare = Command::new(target.join("compare"));
    compare.args(arguments).current_dir(root());
    compare.arg("--tidings").arg(target.join("tidings"));
    if !arguments.iter().any(|argument| argument == "--quick") {
        let missing = DEBIAN.iter().filter(|(_, files)| !is_there(files));
        let missing: Vec<&str> = missing.map(|(package, _)| *package).collect();
        tools::debian_packages("the measurements", &missing)?;
        tools::node_packages()?;
        let python = tools::python_packages("benches")?;
        compare.arg("--python").arg(python);
        let modules = root().join("tests/node/node_modules");
        compare.arg("--node-modules").arg(modules);
        compare
            .arg("--results")
            .arg(root().join("benches/RESULTS.md"));
    }
    crate::run(&mut compare)
}

fn is_there(files: &[&str]) -> bool {
    files.iter().any(|file| Path::new(file).exists())
}
