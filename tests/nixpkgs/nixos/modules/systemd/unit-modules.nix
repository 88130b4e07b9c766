# Submodules for units of each kind: their options, and the settings that follow from them.
{ config, lib, pkgs }:
let
  inherit (lib) mkIf mkMerge;
  inherit (config.systemd) package;
  unitOptions = import ./unit-options.nix { inherit lib; };

  triggerFile = kind: name: triggers: "${pkgs.writeText "X-${kind}-Triggers-${lib.strings.sanitizeDerivationName name}"
    (toString (map (x: if builtins.isPath x then "${x}" else x) (lib.flatten triggers)))}";

  common = { name, config, ... }: {
    config.unitConfig =
      let
        list = key: values: lib.optionalAttrs (values != [ ]) { ${key} = toString values; };
        one = key: value: lib.optionalAttrs (value != null && value != "") { ${key} = value; };
      in
      list "Requires" config.requires // list "Wants" config.wants // list "Upholds" config.upholds
      // list "After" config.after // list "Before" config.before // list "BindsTo" config.bindsTo
      // list "PartOf" config.partOf // list "Conflicts" config.conflicts // list "Requisite" config.requisite
      // list "OnFailure" config.onFailure // list "OnSuccess" config.onSuccess
      // list "Documentation" config.documentation // one "Description" config.description
      // one "StartLimitIntervalSec" (lib.mapNullable toString config.startLimitIntervalSec)
      // one "StartLimitBurst" (lib.mapNullable toString config.startLimitBurst)
      // lib.optionalAttrs (config.restartTriggers != [ ]) { X-Restart-Triggers = triggerFile "Restart" name config.restartTriggers; }
      // lib.optionalAttrs (config.reloadTriggers != [ ]) { X-Reload-Triggers = triggerFile "Reload" name config.reloadTriggers; };
  };

  kind = options: [ common { inherit options; } ];
in
{
  plain = kind unitOptions.unit;
  socket = kind unitOptions.socket;
  timer = kind unitOptions.timer;
  path = kind unitOptions.path;
  slice = kind unitOptions.slice;
  mount = kind unitOptions.mount ++ [
    ({ config, ... }: {
      config.mountConfig = { What = config.what; Where = config.where; }
        // lib.optionalAttrs (config.type != "") { Type = config.type; }
        // lib.optionalAttrs (config.options != "") { Options = config.options; };
    })
  ];

  service = kind unitOptions.service ++ [
    ({ name, config, ... }:
      let
        # The name shows up in the journal, so it is made from the unit's.
        script = part: text:
          let file = "unit-script-${lib.strings.sanitizeDerivationName name}-${part}"; in
          "${pkgs.writeShellScriptBin file "set -e\n${text}"}/bin/${file}";
        part = text: key: job: mkIf (text != "") { ${key} = job text; };
      in
      {
        config = {
          path = mkIf config.enableDefaultPath (lib.mkAfter [ pkgs.coreutils pkgs.findutils pkgs.gnugrep pkgs.gnused package ]);
          environment.PATH = mkIf (config.path != [ ])
            "${lib.makeBinPath config.path}:${lib.makeSearchPath "sbin" config.path}";
          serviceConfig = mkMerge [
            (part config.preStart "ExecStartPre" (text: [ (script "pre-start" text) ]))
            (part config.script "ExecStart" (text: script "start" text + lib.optionalString (config.scriptArgs != "") " ${config.scriptArgs}"))
            (part config.postStart "ExecStartPost" (text: [ (script "post-start" text) ]))
            (part config.reload "ExecReload" (script "reload"))
            (part config.preStop "ExecStop" (script "pre-stop"))
            (part config.postStop "ExecStopPost" (script "post-stop"))
          ];
        };
      })
  ];
}
