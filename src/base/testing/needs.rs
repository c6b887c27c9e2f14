//! The switch for tests that need more than Rust and a C compiler: `RELAYER_TEST_TOOLS=1`.
//!
//! tests/it has this file as a module of its own.

/// How often to do something that takes long: `quick` times without the switch.
pub(crate) fn count(all: u64, quick: u64) -> u64 {
    if is_set() { all } else { quick }
}

/// Whether the switch is set.
fn is_set() -> bool {
    std::env::var_os("RELAYER_TEST_TOOLS").is_some_and(|value| value == "1")
}

/// Whether a test may run these, separated by commas: programs, or `root`.
///
/// Without the switch it may not, and this prints why; with the switch it may.
///
/// # Panics
///
/// With the switch, if one of them is missing.
pub(crate) fn needs(tools: &str) -> bool {
    if !is_set() {
        println!("skipped: needs {tools}; tests/run.sh runs it");
        return false;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = |tool: &&str| {
        if *tool == "root" {
            !rustix::process::geteuid().is_root()
        } else {
            !std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
        }
    };
    if let Some(tool) = tools.split(", ").find(missing) {
        panic!("this test needs {tool}: run tests/run.sh, or unset RELAYER_TEST_TOOLS");
    }
    true
}
