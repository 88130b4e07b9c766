# Options of units, by kind.
{ lib }:
let
  inherit (lib) mkOption types;
  atom = types.nullOr (types.oneOf [ types.bool types.int types.float types.str types.path types.package ]);
  # As soon as one definition of a setting is a list, all of them are meant; plain ones must agree.
  value = types.either atom (types.listOf atom) // {
    merge = loc: defs:
      if lib.any (d: lib.isList d.value) defs then lib.concatMap (d: lib.toList d.value) defs
      else lib.mergeEqualOption loc defs;
  };
  settings = description: mkOption { type = types.attrsOf value; default = { }; inherit description; };
  kinds = "service|socket|device|mount|automount|swap|target|path|timer|scope|slice";
  unitName = types.strMatching "[a-zA-Z0-9@%:_.\\-]+[.](${kinds})";
  names = description: mkOption { type = types.listOf unitName; default = [ ]; inherit description; };
  flag = default: description: mkOption { type = types.bool; inherit default description; };
  lines = description: mkOption { type = types.lines; default = ""; inherit description; };
  triggers = description: mkOption { type = types.listOf types.unspecified; default = [ ]; inherit description; };
in
rec {
  inherit atom value;

  # What decides how a unit's file is placed and linked.
  file = {
    enable = flag true "Whether the unit may run; off, it is masked.";
    overrideStrategy = mkOption {
      type = types.enum [ "asDropinIfExists" "asDropin" ];
      default = "asDropinIfExists";
      description = "Whether the text is a unit of its own or, where a package in systemd.packages brings that unit, an addition to it.";
    };
    wantedBy = names "Units that want this one.";
    requiredBy = names "Units that require this one.";
    upheldBy = names "Units that keep this one running.";
    aliases = names "Other names of the unit.";
  };

  unit = file // {
    description = mkOption { type = types.singleLineStr; default = ""; description = "What the unit is."; };
    documentation = mkOption { type = types.listOf types.str; default = [ ]; description = "Where its documentation is."; };
    requires = names "Units to start with this one; if one fails, so does this.";
    wants = names "Units to start with this one.";
    upholds = names "Units to keep running while this one runs.";
    after = names "Units to start before this one.";
    before = names "Units to start after this one.";
    bindsTo = names "Units without which this one stops.";
    partOf = names "Units that this one stops and restarts with.";
    conflicts = names "Units that cannot run beside this one.";
    requisite = names "Units that must run already.";
    onFailure = names "Units to start when this one fails.";
    onSuccess = names "Units to start when this one succeeds.";
    unitConfig = settings "Settings of the [Unit] section.";
    startLimitBurst = mkOption {
      type = types.nullOr types.int;
      default = null;
      description = "How often the unit may start within startLimitIntervalSec.";
    };
    startLimitIntervalSec = mkOption {
      type = types.nullOr types.int;
      default = null;
      description = "The span for startLimitBurst, in seconds.";
    };
    restartTriggers = triggers "Values whose change restarts the unit at a switch.";
    reloadTriggers = triggers "Values whose change reloads the unit at a switch.";
  };

  service = unit // {
    environment = mkOption {
      type = types.attrsOf (types.nullOr (types.oneOf [ types.str types.path types.package ]));
      default = { };
      description = "Environment variables.";
    };
    path = mkOption {
      type = types.listOf (types.oneOf [ types.package types.str ]);
      default = [ ];
      description = "Packages in the service's PATH.";
    };
    enableDefaultPath = flag true "Whether PATH holds coreutils, findutils, gnugrep, gnused and systemd.";
    serviceConfig = settings "Settings of the [Service] section.";
    script = lines "Shell commands run as the main process.";
    scriptArgs = mkOption { type = types.str; default = ""; description = "Arguments of `script`."; };
    preStart = lines "Shell commands run before the main process.";
    postStart = lines "Shell commands run after the main process has started.";
    reload = lines "Shell commands that make the main process reload.";
    preStop = lines "Shell commands that stop the main process.";
    postStop = lines "Shell commands run after the main process has ended.";
    jobScripts = mkOption {
      type = types.listOf types.path;
      default = [ ];
      internal = true;
      description = "Scripts of the unit.";
    };
    restartIfChanged = flag true "Whether a switch restarts the service when its unit has changed.";
    reloadIfChanged = flag false "Whether a switch reloads it instead.";
    stopIfChanged = flag true "Whether a switch stops it with the old unit and starts it with the new one, instead of restarting.";
    notSocketActivated = flag false "Whether a switch treats the service apart from its socket.";
    startAt = mkOption {
      type = types.coercedTo types.str lib.singleton (types.listOf types.str);
      default = [ ];
      description = "Calendar times at which to start it.";
    };
  };

  socket = unit // {
    listenStreams = mkOption { type = types.listOf types.str; default = [ ]; description = "Values of ListenStream."; };
    listenDatagrams = mkOption { type = types.listOf types.str; default = [ ]; description = "Values of ListenDatagram."; };
    socketConfig = settings "Settings of the [Socket] section.";
  };
  timer = unit // { timerConfig = settings "Settings of the [Timer] section."; };
  path = unit // { pathConfig = settings "Settings of the [Path] section."; };
  slice = unit // { sliceConfig = settings "Settings of the [Slice] section."; };
  mount = unit // {
    what = mkOption { type = types.str; description = "What is mounted."; };
    where = mkOption { type = types.str; description = "Where it is mounted."; };
    type = mkOption { type = types.str; default = ""; description = "The file system."; };
    options = mkOption { type = types.commas; default = ""; description = "Mount options."; };
    mountConfig = settings "Settings of the [Mount] section.";
  };
}
