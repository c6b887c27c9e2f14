//! `relayer config`.

use clap::{Args, Command, CommandFactory as _};
use serde_json::json;

use super::settings::{Preset, Presets, variable};
use super::table::table;
use super::{Cli, Global, Outcome, output};
use crate::base::error::{Error, Result};
use crate::split::report::SCHEMA;

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// Show all options of this command, as in `store add`, with their defaults
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

/// An option and its value.
struct Row {
    command: String,
    option: String,
    value: String,
    from: String,
}

impl ConfigArgs {
    pub(super) fn run(&self, global: &Global) -> Result<Outcome> {
        let settings = Presets::read()?;
        let mut command = settings.apply(Cli::command())?;
        command.build();
        let rows = self.rows(&settings.found(), &command)?;
        let value = || {
            let row = |row: &Row| {
                json!({
                    "command": row.command, "option": row.option, "value": row.value, "from": row.from,
                    "variable": variable(&row.option),
                })
            };
            json!({ "schema": SCHEMA, "options": rows.iter().map(row).collect::<Vec<_>>() })
        };
        output::print_result(global, false, value, || {
            if rows.is_empty() {
                return "all options have their defaults: no RELAYER_… variable and no relayer.toml sets \
                        any; `relayer config split` lists those of split\n"
                    .to_owned();
            }
            let mut text = table(&["command", "option", "value", "from"], 4);
            for row in &rows {
                let command = if row.command.is_empty() { "all" } else { &row.command };
                text.add_row([command, &format!("--{}", row.option), &row.value, &row.from]);
            }
            text.fit(global.layout())
        })
    }

    /// Returns what was set, or all options of a command.
    fn rows(&self, found: &[Preset], command: &Command) -> Result<Vec<Row>> {
        if self.command.is_empty() {
            let row = |setting: &Preset| Row {
                command: setting.command.clone(),
                option: setting.option.clone(),
                value: setting.values.join(" "),
                from: setting.origin.to_string(),
            };
            return Ok(found.iter().map(row).collect());
        }
        let name = self.command.join(" ");
        let sub = self.command.iter().try_fold(command, |at, name| at.find_subcommand(name));
        let sub = sub.ok_or_else(|| {
            Error::not_found(format!("there is no command {name}; `relayer --help` lists all"))
        })?;
        let row = |arg: &clap::Arg| {
            let option = arg.get_long()?.to_owned();
            let own = |setting: &&Preset| {
                setting.option == option && [name.as_str(), ""].contains(&setting.command.as_str())
            };
            let values = arg.get_default_values().iter().map(|value| value.to_string_lossy());
            let flag = if arg.get_action().takes_values() { "" } else { "false" };
            let value = values.collect::<Vec<_>>().join(" ");
            let from = found
                .iter()
                .find(own)
                .map_or_else(|| "default".to_owned(), |s| s.origin.to_string());
            let value = if value.is_empty() { flag.to_owned() } else { value };
            Some(Row { command: name.clone(), option, value, from })
        };
        let shown = |arg: &&clap::Arg| !["help", "version"].contains(&arg.get_id().as_str());
        Ok(sub.get_arguments().filter(shown).filter_map(row).collect())
    }
}
