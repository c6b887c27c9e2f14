//! Options from the environment and from a file.
//!
//! Each option of a command has a variable, `RELAYER_` and its name in capitals, and a key in
//! `relayer.toml`. Both only replace the option's default, so what is on the command line wins, also
//! over options that it contradicts.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use crate::base::error::{Context, Error, Result};

/// The file in the working folder.
const FILE: &str = "relayer.toml";
/// The variable that names another file.
const VARIABLE: &str = "RELAYER_CONFIG";
/// Options that are of one call or one image, or that ask for help.
const EXCLUDED: &[&str] = &[
    "help",
    "version",
    "output",
    "previous",
    "summary",
    "env",
    "entrypoint",
    "cmd",
    "user",
    "workdir",
    "expose",
    "volume",
    "stop-signal",
    "healthcheck",
    "set-platform",
    "tag",
];

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A variable of the environment.
    Variable(String),
    /// A file.
    File(PathBuf),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// A value in force.
#[derive(Debug, Clone)]
pub(super) struct Preset {
    /// The command whose option it is; empty for options of every command.
    pub(super) command: String,
    /// The option's name without dashes.
    pub(super) option: String,
    /// Its values; several if the option may be repeated.
    pub(super) values: Vec<String>,
    /// Where they come from.
    pub(super) origin: Origin,
}

/// The values of the file and the environment.
#[derive(Default)]
pub(super) struct Presets {
    file: Option<(PathBuf, Table)>,
    found: RefCell<Vec<Preset>>,
    wrong: RefCell<Option<Error>>,
}

/// Returns whether an option can be set.
fn can_be_set(arg: &Arg) -> bool {
    let name = arg.get_long();
    name.is_some_and(|name| !EXCLUDED.contains(&name))
}

/// Returns the name of an option's variable.
pub(super) fn variable(option: &str) -> String {
    format!("RELAYER_{}", option.replace('-', "_").to_ascii_uppercase())
}

impl Presets {
    /// Reads the file that `RELAYER_CONFIG` names, or `relayer.toml` in the working folder if there is one.
    ///
    /// # Errors
    /// If it can't be read or is not TOML.
    pub(super) fn read() -> Result<Self> {
        let stated = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
        let path = stated.clone().unwrap_or_else(|| FILE.into());
        if stated.is_none() && !path.exists() {
            return Ok(Self::default());
        }
        let place = || format!("reading {}", path.display());
        let text = std::fs::read_to_string(&path).with_context(place)?;
        let parsed = text.parse::<Table>();
        let table = parsed.map_err(|e| Error::malformed(e.to_string().trim_end().to_owned()));
        let table = table.with_context(place)?;
        Ok(Self { file: Some((path, table)), ..Self::default() })
    }

    /// Makes the values the defaults of a command's options.
    ///
    /// # Errors
    /// If a value is not valid for its option, or the file has a key that is no option.
    pub(super) fn apply(&self, command: Command) -> Result<Command> {
        let table = self.file.as_ref().map(|(_, table)| table);
        self.check_keys(&command, table, &[])?;
        let command = self.set(command, table, &[]);
        self.wrong.take().map_or(Ok(command), Err)
    }

    /// Returns the values in force, in the order of commands and options.
    pub(super) fn found(&self) -> Vec<Preset> {
        self.found.borrow().clone()
    }

    /// Sets the options of a command, for which the file has a table, and of its subcommands.
    fn set(&self, command: Command, table: Option<&Table>, path: &[&str]) -> Command {
        let names: Vec<String> =
            command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        let command = command.mut_args(|arg| self.set_option(arg, table, path));
        names.iter().fold(command, |command, name| {
            let own = table.and_then(|table| table.get(name)).and_then(Value::as_table);
            let path = [path, &[name.as_str()]].concat();
            command.mut_subcommand(name, |sub| self.set(sub, own, &path))
        })
    }

    fn set_option(&self, arg: Arg, own: Option<&Table>, path: &[&str]) -> Arg {
        let Some(option) = arg.get_long().filter(|_| can_be_set(&arg)).map(str::to_owned) else {
            return arg;
        };
        let variable = variable(&option);
        let many = matches!(arg.get_action(), ArgAction::Append);
        let (values, origin) = if let Ok(text) = std::env::var(&variable)
            && !text.is_empty()
        {
            let values = if many { text.split_whitespace().collect() } else { vec![text.as_str()] };
            (values.into_iter().map(str::to_owned).collect(), Origin::Variable(variable))
        } else {
            let Some((file, table)) = &self.file else { return arg };
            // A command's own table comes before the keys for all.
            let value = own.and_then(|own| own.get(&option)).or_else(|| table.get(&option));
            let Some(values) = value.and_then(texts) else { return arg };
            (values, Origin::File(file.clone()))
        };
        if let Err(why) = check(&arg, &values) {
            let e = Error::malformed(format!("{origin}: {why}"));
            self.wrong.borrow_mut().get_or_insert(e);
            return arg;
        }
        let setting = Preset { command: path.join(" "), option, values: values.clone(), origin };
        self.found.borrow_mut().push(setting);
        arg.default_values(values).hide_default_value(false)
    }

    /// Checks that each key of the file is a command or one of its options.
    fn check_keys(&self, command: &Command, table: Option<&Table>, path: &[&str]) -> Result<()> {
        for (key, value) in table.into_iter().flatten() {
            let sub = command.find_subcommand(key);
            let wrong = |what: &str| {
                let file = self.file.as_ref().map_or(Path::new(FILE), |(file, _)| file);
                let place = [path, &[key]].concat().join(".");
                Err(Error::malformed(format!("{}: {place} {what}", file.display())))
            };
            match (value, sub) {
                (Value::Table(own), Some(sub)) => {
                    self.check_keys(sub, Some(own), &[path, &[key]].concat())?;
                }
                (Value::Table(_), None) => return wrong("is not a command"),
                _ if !has_option(command, key, path.is_empty()) => {
                    return wrong(match path {
                        [] => "is not an option that the file can set",
                        _ => {
                            "is not an option of this command; those of every command stand at the top"
                        }
                    });
                }
                _ if texts(value).is_none() => {
                    return wrong("is not a text, number or list of them");
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether a command, or with `below` one of its subcommands, has an option that can be set.
fn has_option(command: &Command, option: &str, below: bool) -> bool {
    let own = command.get_arguments().filter(|arg| can_be_set(arg));
    own.filter_map(Arg::get_long).any(|name| name == option)
        || below && command.get_subcommands().any(|sub| has_option(sub, option, true))
}

/// Returns a value of the file as an argument is written.
fn texts(value: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(n) => Some(n.to_string()),
        Value::Float(n) => Some(n.to_string()),
        Value::Boolean(is) => Some(is.to_string()),
        _ => None,
    };
    match value {
        Value::Array(list) => list.iter().map(one).collect(),
        value => one(value).map(|text| vec![text]),
    }
}

/// Checks values as clap would on the command line.
fn check(arg: &Arg, values: &[String]) -> std::result::Result<(), String> {
    let name = arg.get_long().unwrap_or_default();
    if !arg.get_action().takes_values() {
        let is_flag = matches!(values, [value] if value == "true" || value == "false");
        return if is_flag { Ok(()) } else { Err(format!("{name} must be true or false")) };
    }
    if values.len() > 1 && !matches!(arg.get_action(), ArgAction::Append) {
        return Err(format!("{name} can have one value only"));
    }
    // The argument itself may refer to others.
    let alone = Arg::new(name.to_owned())
        .long(name.to_owned())
        .value_name(
            arg.get_value_names().and_then(|names| names.first()).cloned().unwrap_or_default(),
        )
        .action(arg.get_action().clone())
        .value_parser(arg.get_value_parser().clone());
    let words = values.iter().map(|value| format!("--{name}={value}"));
    let words = std::iter::once("relayer".to_owned()).chain(words);
    let parsed = Command::new("relayer").arg(alone).try_get_matches_from(words);
    parsed.map(drop).map_err(|e| {
        let text = e.to_string();
        let line = text.lines().next().unwrap_or_default();
        line.trim_start_matches("error: ").to_owned()
    })
}
