//! The Nix expression that yields a machine's system.

use crate::facts::nix_string;
use crate::lock::Lock;
use crate::source::Source;
use anyhow::Result;
use machine_record::{Ami, Failure, Kind, Record};
use std::path::Path;

/// How a line begins on Nix's stderr that names a fact which the configuration looked at, after the
/// number of the machine.
pub const FACT: &str = "trace: nixpipe-fact ";

/// How one begins that says what a machine of that number came to.
pub const DONE: &str = "trace: nixpipe-done ";

/// How a line begins on Nix's stderr that names something which `watch.nix` saw it look at.
pub const READ: &str = "trace: nixpipe-read ";

/// Where the records' JSON goes: no text of Nix holds it.
const HOLE: char = '\0';

/// Builtins that tell what they look at.
const WATCH: &str = include_str!("watch.nix");

/// The names of Nix that [`WATCH`] gives another meaning, for text that is in no file.
const WATCHED: &str = "builtins import scopedImport fetchGit fetchMercurial fetchTarball fetchTree __fetchurl \
    __filterSource __findFile __getEnv __hashFile __path __pathExists __readDir __readFile __readFileType __storePath";

/// The expression but for the machine's facts: two machines of one template differ in these alone.
pub struct Template {
    text: String,
    /// How it is known what an evaluation depends on
    pub sight: Sight,
    /// The first line that is the same whether Nix is watched or not, but for its number
    own: usize,
}

/// How it is known what an evaluation depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Nix tells all that it looks at
    Watched,
    /// Nix looks at nothing but what the expression names, by its hash
    Pure,
    /// It is not
    Unknown,
}

impl Template {
    /// `arguments` are names and Nix expressions. With `watch`, Nix tells what it looks at, where
    /// it can. A flake is evaluated as `lock` says, or as it is found without.
    ///
    /// # Errors
    /// Kind `input` where the record's own members are not what they should be.
    pub fn new(
        source: &Source,
        record: &Record,
        arguments: &[(String, String)],
        watch: bool,
        lock: Option<&Lock>,
    ) -> Result<Template> {
        let system = match system(record)? {
            Some(system) => nix_string(&system),
            None => "builtins.currentSystem".into(),
        };
        let inline = match source {
            Source::Inline(text) => text.as_str(),
            _ => "null",
        };
        let texts = || arguments.iter().map(|(_, nix)| nix.as_str()).chain([inline]);
        if texts().any(|text| text.contains(HOLE)) {
            return Err(Failure::new(Kind::Input, "the expression holds a NUL")
                .hint("take it out of --expr, --arg or the record")
                .into());
        }
        let sight = match source {
            Source::Flake { .. } if lock.is_some() => Sight::Pure,
            // Nix reads the files of a flake by itself.
            Source::Flake { .. } => Sight::Unknown,
            // A builtin has one more name with underscores.
            _ if watch && !texts().any(|text| text.contains("__")) => Sight::Watched,
            _ => Sight::Unknown,
        };
        let mut text = String::new();
        if sight == Sight::Watched {
            text += &format!("let nixpipe-watch = ({WATCH}\n) {};\n{THERE}", roots(source));
            text += &format!("in let inherit (nixpipe-watch) {WATCHED};\n");
        } else {
            text += "let ";
        }
        // What the user wrote sees no names but Nix's own. Errors in it are shown where nobody watches, and its first line
        // is the first that Nix counts.
        text += &format!("nixpipe-inline = ({inline}\n);\nnixpipe-args = {{\n");
        for (name, nix) in arguments {
            text += &format!("{} = (\n{nix}\n);\n", nix_string(name));
        }
        text += "};\n";
        if sight != Sight::Watched {
            text += THERE;
        }
        let own = text.lines().count() + 1;
        let nixos = nixos(source, record, lock)?;
        text += &format!("in let\nrecords = [ {HOLE} ];\nsystem = {system};\n");
        text += &format!("one = at: let\nnixos = {nixos};\n{BODY}");
        Ok(Template { text, sight, own })
    }

    /// Whether Nix names a place in the watcher, or in what the user wrote on the command line, whose lines have other
    /// numbers where Nix is watched.
    pub fn is_named(&self, stderr: &[String]) -> bool {
        stderr.iter().filter_map(|line| line.split_once("at «stdin»:")).any(|(_, place)| {
            let line = place.split(':').next().and_then(|line| line.parse::<usize>().ok());
            line.is_none_or(|line| line < self.own)
        })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The expression for machines of these facts.
    pub fn with(&self, facts: &[&str]) -> String {
        let facts: Vec<String> = facts.iter().map(|json| nix_string(json)).collect();
        self.text.replacen(HOLE, &facts.join("\n"), 1)
    }
}

/// The folders that files are likely to be imported from.
fn roots(source: &Source) -> String {
    let folder = match source {
        Source::Plain(path) | Source::Hermetic(path) => path.parent().map(Path::to_path_buf),
        _ => std::env::current_dir().ok(),
    };
    let folder = folder.map(|folder| nix_string(&folder.to_string_lossy())).unwrap_or_default();
    format!(
        "(builtins.filter (path: builtins.substring 0 1 path == \"/\") \
         ([ {folder} ] ++ map (entry: toString entry.path) builtins.nixPath) ++ [ builtins.storeDir ])"
    )
}

/// Nix's own, which nobody watches.
const THERE: &str = "nixpipe-there = builtins.pathExists;\n";

/// What is the same for all: the end of `one`, which evaluates the machine of a number and says on
/// stderr what it came to, and all of them in turn. (A set with `outPath` would print as text.)
///
/// `facts` says on stderr, once, when a part of the record is looked at: of a set or a list that is
/// its shape, and its parts say so for themselves. The values stay what they are.
///
/// `about` must never fail: what a NixOS of another age lacks is null.
const BODY: &str = r#"machine = facts [ ] (builtins.fromJSON (builtins.elemAt records at));
specialArgs = nixpipe-args // { inherit machine; };
facts = path: value: builtins.trace "nixpipe-fact ${toString at} ${builtins.toJSON path}" (
  if value ? nixpipe-unknown
  then abort "machine.${builtins.head path} is known after apply: ${value.nixpipe-unknown} makes it"
  else if builtins.isAttrs value then builtins.mapAttrs (name: facts (path ++ [ name ])) value
  else if builtins.isList value
  then builtins.genList (i: facts (path ++ [ i ]) (builtins.elemAt value i)) (builtins.length value)
  else value);
call = f: if builtins.isFunction f
  then f (builtins.intersectAttrs (builtins.functionArgs f) ({ inherit system; } // specialArgs))
  else f;
extend = nixos: if nixos ? extendModules then nixos.extendModules { inherit specialArgs; } else nixos;
toplevel = nixos.config.system.build.toplevel
  or (throw "it is no NixOS system: there is no config.system.build.toplevel");
try = value: let tried = builtins.tryEval (builtins.deepSeq value value); in if tried.success then tried.value else null;
# What is wrong with the system itself is said first.
about = builtins.seq toplevel.drvPath {
  system = try (toplevel.system or null);
  sshd = try (nixos.config.services.openssh.enable or null);
  root = try (if nixos.config ? fileSystems then nixos.config.fileSystems ? "/" else null);
  efi = try (nixos.config.ec2.efi or null);
  stateVersion = try (nixos.options.system.stateVersion.highestPrio or null);
  substituters = try (nixos.config.nix.settings.substituters or nixos.config.nix.binaryCaches or null);
  moreSubstituters = try (nixos.config.nix.settings.extra-substituters or null);
  keys = try (nixos.config.nix.settings.trusted-public-keys or nixos.config.nix.binaryCachePublicKeys or null);
  moreKeys = try (nixos.config.nix.settings.extra-trusted-public-keys or null);
};
# Some Nix writes derivations while it goes on. One whose file it is asked for is there.
result = builtins.seq (nixpipe-there toplevel.drvPath) builtins.toJSON { drv = toplevel.drvPath; toplevel = toplevel.outPath; inherit about; };
in builtins.trace "nixpipe-done ${toString at} ${result}" null;
in if builtins.length records == 1 then one 0
else builtins.foldl' (done: at: builtins.seq (one at) done) null (builtins.genList (at: at) (builtins.length records))
"#;

/// The NixOS system as its modules make it.
fn nixos(source: &Source, record: &Record, lock: Option<&Lock>) -> Result<String> {
    // A path literal could not hold every file name.
    let path = |path: &Path| format!("(/. + {})", nix_string(&path.to_string_lossy()));
    let plain = |module: String| {
        format!("import <nixpkgs/nixos/lib/eval-config.nix> {{ inherit system specialArgs; modules = [ {module} ]; }}")
    };
    Ok(match source {
        Source::Plain(file) => plain(path(file)),
        Source::Inline(_) => plain("nixpipe-inline".into()),
        Source::Hermetic(file) => format!("extend (call (import {}))", path(file)),
        Source::Flake { reference, name } => format!(
            "let
              systems = ({}).nixosConfigurations or {{ }};
              name = {};
              names = if systems == {{ }} then \"none\" else builtins.concatStringsSep \", \" (builtins.attrNames systems);
            in extend (systems.${{name}} or (throw \"it has no nixosConfigurations.${{name}}; it has: ${{names}}\"))",
            lock.map_or_else(|| format!("builtins.getFlake {}", nix_string(reference)), Lock::expression),
            nix_string(name.as_ref().unwrap_or(&record.name())),
        ),
        Source::Toplevel(_) => return Err(Failure::new(Kind::Internal, "a built system needs no evaluation").into()),
    })
}

/// The system that the machine is of: the record's own word, else its image's.
fn system(record: &Record) -> Result<Option<String>> {
    Ok(match record.string("system")? {
        Some(system) => Some(system),
        None => record.section::<Ami>()?.map(|ami| ami.system),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::{self, Event};
    use machine_record::Records;
    use std::process::Command;

    fn record(text: &str) -> Record {
        Records::new(text.as_bytes()).read().unwrap().unwrap()
    }

    #[test]
    fn an_expression_holds_no_nul() {
        let told = Template::new(&Source::Inline("\0".into()), &record("{}"), &[], false, None).map(drop).unwrap_err();
        let failure = machine_record::Failure::of(&told);
        assert_eq!(failure.message, "the expression holds a NUL");
        assert_eq!(failure.hint.as_deref(), Some("take it out of --expr, --arg or the record"));
    }

    #[test]
    fn a_place_in_the_watcher_is_told_from_those_of_every_expression() {
        let source = Source::Inline("{ }\n".into());
        let watched = Template::new(&source, &record("{}"), &[], true, None).unwrap();
        let line_of = |words: &str| watched.text.lines().position(|line| line.contains(words)).unwrap() + 1;
        let is_named = |line: usize| watched.is_named(&["error: x".into(), format!("       at «stdin»:{line}:7:")]);
        assert!(is_named(line_of("scopedImport scope path")) && is_named(line_of("nixpipe-inline = ({ }")));
        assert!(!is_named(line_of("records = [")) && !is_named(line_of("toplevel.drvPath")));
        assert!(watched.is_named(&["at «stdin»:".into()]) && !watched.is_named(&["at /c.nix:1:1:".into()]));
    }

    #[test]
    fn a_built_system_is_not_evaluated() {
        let path = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system";
        let built = Source::Toplevel(machine_record::StorePath::new(path).unwrap());
        let told = Template::new(&built, &record("{}"), &[], false, None).map(drop).unwrap_err();
        let failure = machine_record::Failure::of(&told);
        assert_eq!((failure.kind, &*failure.message), (Kind::Internal, "a built system needs no evaluation"));
    }

    #[test]
    fn the_record_reaches_nix_as_it_is() {
        let odd = r#"{"name":"a","x":["${builtins.abort \"no\"} \\ \" ''",{"ü":[1,-2.5,null,true]}]}"#;
        let template = Template::new(&Source::Inline("{ }".into()), &record(odd), &[], false, None).unwrap();
        let result = "{ drv = toplevel.drvPath; toplevel = toplevel.outPath; inherit about; }";
        let question = template.with(&[odd, r#"{"x":1}"#]).replace(result, "machine.x");
        let question = question.replace("nixpipe-there toplevel.drvPath", "null");
        assert!(question.contains("seq (null) builtins.toJSON machine.x"));
        let mut command = Command::new("nix-instantiate");
        command.args(["--eval", "--json", "--strict", "-"]);
        let (mut facts, mut done) = (Vec::new(), Vec::new());
        let outcome = nix::run_beside(vec!["a".into(), "b".into()], &mut command, question, false, |_, events| {
            events.into_iter().for_each(|event| match event {
                Event::Looks(at, fact) => facts.push((at, fact)),
                Event::Done(outcome) => done.push(outcome.stdout),
            });
        });
        assert!(outcome.as_ref().is_ok_and(|outcome| outcome.success), "{:?}", outcome.unwrap().stderr);
        assert_eq!(done, [r#"["${builtins.abort \"no\"} \\ \" ''",{"ü":[1,-2.5,null,true]}]"#, "1"]);
        let of = |machine| facts.iter().filter(|(at, _)| *at == machine).map(|(_, fact)| &**fact).collect::<Vec<_>>();
        assert_eq!((of(0).len(), of(1)), (9, vec!["[]", r#"["x"]"#]), "{facts:?}");
        assert!(!of(0).contains(&r#"["name"]"#), "what is not looked at is not named");
    }

    #[test]
    fn a_derivation_is_in_the_store_before_it_is_told() {
        let system = r#"({ config.system.build.toplevel = derivation { name = "x"; system = "x"; builder = "nobody-writes-it"; }; })"#;
        let template = Template::new(&Source::Hermetic("/c".into()), &record("{}"), &[], false, None).unwrap();
        let text = template.with(&["{}"]).replace(r#"(import (/. + "/c"))"#, system);
        // Without --read-write-mode Nix names it, and writes nothing.
        let mut command = Command::new("nix-instantiate");
        command.args(["--eval", "--json", "--strict", "-"]);
        let lost = nix::run_beside(vec!["a".into()], &mut command, text, true, |_, _| {}).unwrap();
        assert!(!lost.success && lost.said("is not valid"), "{:?}", lost.stderr);
    }

    #[test]
    fn the_system_is_the_records_own_then_the_images() {
        let plain = Source::Plain("/c".into());
        let text = |text: &str| Template::new(&plain, &record(text), &[], false, None).unwrap().text;
        assert!(text(r#"{"system":"aarch64-linux"}"#).contains(r#"system = "aarch64-linux""#));
        assert!(text("{}").contains("builtins.currentSystem"));
    }
}
