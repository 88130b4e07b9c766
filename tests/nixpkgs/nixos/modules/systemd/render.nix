# Text and derivations of unit files.
{ config, lib, pkgs }:
let
  cfg = config.systemd;
  inherit (lib) concatMapStrings mapAttrsToList optionalString escapeShellArg;

  line = name: value:
    optionalString (value != null)
      "${name}=${if value == true then "true" else if value == false then "false" else toString value}\n";
in
rec {
  atomType = (import ./unit-options.nix { inherit lib; }).value;

  # Systemd takes a setting given several times as a list.
  section = settings: lib.concatStrings (mapAttrsToList (name: value: concatMapStrings (line name) (lib.toList value)) settings);

  # What the folder of units needs to know besides the text.
  unitAttrs = unit: { inherit (unit) enable overrideStrategy wantedBy requiredBy upheldBy aliases; };

  unitText = unit: rest: ''
    [Unit]
    ${section unit.unitConfig}
    ${rest}'' + optionalString (unit.wantedBy != [ ]) ''

    [Install]
    WantedBy=${toString unit.wantedBy}
  '';

  # X- keys are for switch-to-configuration; systemd ignores them.
  serviceText = name: service: unitText service (
    "[Service]\n"
    + lib.concatStrings (mapAttrsToList (key: value: optionalString (value != null) (
        let entry = "Environment=${builtins.toJSON "${key}=${value}"}\n"; in
        if lib.stringLength entry >= 2048
        then throw "The value of the environment variable ‘${key}’ in systemd service ‘${name}.service’ is too long."
        else entry)) (cfg.globalEnvironment // service.environment))
    + (if service.reloadIfChanged then "X-ReloadIfChanged=true\n"
      else optionalString (!service.restartIfChanged) "X-RestartIfChanged=false\n")
    + optionalString (!service.stopIfChanged) "X-StopIfChanged=false\n"
    + optionalString service.notSocketActivated "X-NotSocketActivated=true\n"
    + section service.serviceConfig);

  socketSection = socket: "[Socket]\n" + section socket.socketConfig
    + concatMapStrings (line "ListenStream") socket.listenStreams
    + concatMapStrings (line "ListenDatagram") socket.listenDatagrams;

  makeUnit = name: unit:
    let
      fileName = lib.replaceStrings [ "\\" ] [ "-" ] name;
    in
    if unit.enable then
      pkgs.runCommandLocal "unit-${lib.strings.sanitizeDerivationName fileName}" { text = toString unit.text; passAsFile = [ "text" ]; } ''
        name=${escapeShellArg name}
        mkdir -p "$out"
        cp "$textPath" "$out/$name"
      ''
    else
      # A link to /dev/null is how systemd masks a unit.
      pkgs.runCommandLocal "unit-${lib.strings.sanitizeDerivationName fileName}-disabled" { } ''
        mkdir -p "$out"
        ln -s /dev/null "$out/"${escapeShellArg name}
      '';

  escapePath = (import ../../lib/utils.nix { inherit lib; }).escapeSystemdPath;

  # Upstream's own units are not in here: systemd finds them in its own folder, and links to them work from this one.
  unitsFolder =
    let
      units = lib.attrValues (lib.mapAttrs (name: unit: unit // { inherit name; }) cfg.units);
      placed = unit: ''
        place ${escapeShellArg unit.name} ${unit.unit} ${if unit.overrideStrategy == "asDropin" then "1" else "0"}
      '';
      links = unit: folder: concatMapStrings (other: ''
        link ${escapeShellArg unit.name} ${escapeShellArg "${other}.${folder}"}
      '');
      active = lib.filter (unit: unit.enable) units;
    in
    pkgs.runCommandLocal "system-units" { packages = map toString cfg.packages; } ''
      place() { # name folder dropin
          if [ "$3" = 1 ] || [ -e "$out/$1" ]; then
              if [ "$(readlink -f "$2/$1")" = /dev/null ]; then
                  ln -sfn /dev/null "$out/$1"
              else
                  mkdir -p "$out/$1.d"
                  ln -s "$2/$1" "$out/$1.d/overrides.conf"
              fi
          else
              ln -s "$2/$1" "$out/$1"
          fi
      }
      link() { # name folder
          mkdir -p "$out/$2"
          ln -sfn "../$1" "$out/$2/$1"
      }
      mkdir -p "$out"
      for package in $packages; do
          for folder in "$package/etc/systemd/system" "$package/lib/systemd/system"; do
              [ -d "$folder" ] || continue
              cp -rsnT "$folder" "$out"
              chmod -R u+w "$out"
          done
      done
      ${lib.concatMapStrings placed units}
      ${lib.concatMapStrings (unit: concatMapStrings (alias: ''
        ln -sfn ${escapeShellArg unit.name} "$out/"${escapeShellArg alias}
      '') unit.aliases) active}
      ${lib.concatMapStrings (unit:
        links unit "wants" unit.wantedBy + links unit "requires" unit.requiredBy + links unit "upholds" unit.upheldBy) active}
      ln -sfn ${escapeShellArg "/usr/lib/systemd/system/${cfg.defaultUnit}"} "$out/default.target"
    '';
}
