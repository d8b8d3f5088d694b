//! Shell completions and man pages, made from what the parser knows, so that they cannot lag behind it.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::dispatch::print;
use crate::failure::{Failure, exit};

/// The script for one shell, on stdout.
pub(crate) fn completions(shell: Shell) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "lockctl", &mut script);
    print(&String::from_utf8_lossy(&script));
    exit::OK
}

/// `lockctl.1`, `lockctl-run.1` and so on, in `dir`.
pub(crate) fn man_pages(dir: &Path) -> Result<u8, Failure> {
    clap_mangen::generate_to(Arguments::command(), dir)
        .map_err(|error| Failure::system(format!("the man pages cannot be written to {}: {error}", dir.display())))?;
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_that_the_help_shows_has_a_man_page() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(matches!(man_pages(dir.path()), Ok(exit::OK)));
        for subcommand in Arguments::command().get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
            let page = dir.path().join(format!("lockctl-{}.1", subcommand.get_name()));
            let text = std::fs::read_to_string(&page).expect("its page is there");
            assert!(text.contains(".SH SYNOPSIS"), "{}", page.display());
        }
        assert!(!dir.path().join("lockctl-give-back.1").exists());
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let failure = man_pages(Path::new("/nowhere/at/all")).expect_err("it is not there");
        assert!(failure.line.contains("/nowhere/at/all"), "{}", failure.line);
    }
}
