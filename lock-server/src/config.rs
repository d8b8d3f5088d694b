//! The configuration file: TOML, whose keys are the names of the flags.
//!
//! Whatever is wrong with it is told in one line, with the file, the line in it, and what to do. A file is read whole before
//! anything of it counts.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::ServerSettings;
use crate::flags::ServeFlags;
use crate::member_list::MemberList;

/// A longer one is no configuration.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// What the flags and the file together say, and what it says to start; or one line that says what is wrong.
pub(crate) fn resolve(flags: ServeFlags, file: Option<&Path>) -> Result<(ServeFlags, ServerSettings), String> {
    let flags = match file {
        Some(path) => flags.or(read(path)?),
        None => flags,
    };
    match (flags.settings(), file) {
        (Ok(settings), _) => Ok((flags, settings)),
        (Err(line), Some(path)) => Err(format!("{}: {line}", path.display())),
        (Err(line), None) => Err(line),
    }
}

/// What a member with this file would run.
pub(crate) fn describe(settings: &ServerSettings) -> String {
    let ServerSettings { node, listen, listen_anywhere, metrics_listen, access } = settings;
    let members = MemberList(node.members.clone());
    let who = match (&node.tls, listen_anywhere) {
        (Some(_), _) => ", with TLS, for those who show a certificate",
        (None, true) => ", where other hosts may connect",
        (None, false) => ", for this host only",
    };
    let metrics = metrics_listen.as_ref().map_or_else(|| "nowhere".into(), ToString::to_string);
    let access = if access.is_some() { "access      by rules\n" } else { "" };
    let log_mib = node.ring_bytes >> 20;
    let volatile = if node.allow_volatile { ", may be in memory" } else { "" };
    format!(
        "ok: member {} of the cluster {}\nmembers     {members}\nlistens     {listen}{who}\nmetrics     {metrics}\n\
         data        {}{volatile}\ndurability  {}, a log of {log_mib} MiB\n{access}",
        node.member,
        node.cluster,
        node.data_dir.display(),
        node.durability,
    )
}

/// A file of TOML, or one line with its place that says what is wrong.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let at = path.display();
    let text = read_text(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("{at}: there is no such file: correct the path"),
        io::ErrorKind::InvalidData => format!("{at}: it is no text: write TOML, as in plumeria.toml.example"),
        io::ErrorKind::FileTooLarge => format!("{at}: it has more than {FILE_MAX_BYTES} bytes: is it the right file?"),
        _ => format!("{at}: {error}: correct the path, or who may read it"),
    })?;
    toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        let problem = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
        format!("{at}:{line}: {problem}: correct this line (what may stand there: lock-server --help)")
    })
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_MAX_BYTES + 1).read_to_string(&mut text)?;
    match text.len() as u64 > FILE_MAX_BYTES {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::flags::Flags;

    const EXAMPLE: &str = include_str!("../plumeria.toml.example");
    const PLAIN: &str = "id = 2\ncluster = \"1=a:1,2=b:2\"\ndata-dir = \"/\"\n";

    fn with_file(arguments: &[&str], text: &[u8]) -> Result<ServerSettings, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("plumeria.toml");
        std::fs::write(&path, text).expect("written");
        let flags = Flags::try_parse_from(["lock-server"].iter().chain(arguments)).expect("flags");
        resolve(flags.serve, Some(&path)).map(|(_, settings)| settings)
    }

    /// Each key that the example shows, in force or in a comment, and the line.
    fn shown() -> Vec<(&'static str, &'static str)> {
        let lines = EXAMPLE.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
        let keys = lines.filter_map(|line| line.split_once(" = ").map(|(key, _)| (key, line)));
        keys.filter(|(key, _)| !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')).collect()
    }

    #[test]
    fn the_example_shows_every_flag_once_and_nothing_else() {
        let command = Flags::command();
        let not_in_files = ["config", "test-control", "help", "version"];
        let flags = command.get_arguments().filter_map(|argument| argument.get_long());
        let flags: BTreeSet<&str> = flags.filter(|flag| !not_in_files.contains(flag)).collect();
        let keys: Vec<&str> = shown().iter().map(|(key, _)| *key).collect();
        assert_eq!(keys.iter().copied().collect::<BTreeSet<_>>(), flags);
        assert_eq!(keys.len(), flags.len(), "a key twice: {keys:?}");
    }

    #[test]
    fn the_example_is_right_as_it_is_and_with_every_key_in_force() {
        with_file(&[], EXAMPLE.as_bytes()).expect("right");
        let (tls, rest): (Vec<_>, Vec<_>) =
            shown().into_iter().partition(|(key, _)| key.starts_with("tls-") || *key == "access-rules");
        let lines = |keys: &[(&str, &str)]| keys.iter().map(|(_, line)| format!("{line}\n")).collect::<String>();
        with_file(&[], lines(&rest).as_bytes()).expect("right");
        let all = lines(&[rest, tls].concat());
        let line = with_file(&[], all.as_bytes()).expect_err("there are no such files here");
        assert!(line.contains("/etc/plumeria/tls/member-1.crt: No such file"), "{line}");
    }

    #[test]
    fn what_stands_on_the_command_line_wins_over_the_file() {
        let text = format!("{PLAIN}log-mib = 8\nallow-volatile = true\nname = \"file\"\n");
        let from_file = with_file(&[], text.as_bytes()).expect("right");
        assert_eq!((from_file.node.ring_bytes, from_file.node.allow_volatile), (8 << 20, true));
        let arguments = ["--id", "1", "--log-mib", "16", "--allow-volatile=false"];
        let mixed = with_file(&arguments, text.as_bytes()).expect("right");
        assert_eq!((mixed.node.member, mixed.node.ring_bytes), (rsm::MemberId(1), 16 << 20));
        assert_eq!((mixed.node.cluster.as_str(), mixed.node.allow_volatile), ("file", false));
        assert_eq!(mixed.listen.to_string(), "a:1");
    }

    #[test]
    fn whatever_is_wrong_with_the_file_is_one_line_with_its_place_and_what_to_do() {
        let plain = |rest: &str| format!("{PLAIN}{rest}").into_bytes();
        for (text, expected) in [
            (plain("lunch = 1"), "plumeria.toml:4: unknown field `lunch`, expected one of `id`, `cluster`"),
            (plain("log-mib = \"8\""), "plumeria.toml:4: invalid type: string \"8\", expected u64"),
            (plain("log-mib = 3"), "plumeria.toml:4: 3 MiB: write 4 to 65536"),
            (plain("log-mib ="), "plumeria.toml:4: "),
            (plain("id = 3"), "plumeria.toml:4: duplicate key"),
            (plain("durability = \"rong\""), "plumeria.toml:4: 'rong' is no durability mode: choose one of nvm"),
            (plain("\nlisten = \"here\""), "plumeria.toml:5: 'here' is not an address"),
            (plain("allow-volatile = 1"), "plumeria.toml:4: invalid type: integer `1`, expected a boolean"),
            (plain("config = \"other\""), "plumeria.toml:4: unknown field `config`"),
            (b"id = 1\ncluster = \"1\"\n".to_vec(), "plumeria.toml:2: '1' is no member: write ID=HOST:PORT"),
            (b"id = 1\n".to_vec(), "plumeria.toml: cluster is missing: say --cluster"),
            (b"id = -1\n".to_vec(), "plumeria.toml:1: invalid value: integer `-1`, expected u64"),
            (plain("[table]\n"), "plumeria.toml:4: unknown field `table`"),
            (b"id = 9\n\xff".to_vec(), "plumeria.toml: it is no text: write TOML"),
            (vec![b'#'; FILE_MAX_BYTES as usize + 1], "is it the right file?"),
        ] {
            let line = with_file(&[], &text).expect_err("refused");
            assert!(line.contains(expected) && !line.contains('\n'), "wanted: {expected}\n{line}");
        }
    }

    #[test]
    fn what_a_file_would_run_names_member_members_and_durability() {
        let settings = with_file(&[], format!("{PLAIN}durability = \"full-ss\"").as_bytes()).expect("right");
        let text = describe(&settings);
        for expected in ["ok: member 2 of the cluster plumeria", "1=a:1,2=b:2", "full-ss", "b:2", "64 MiB"] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
