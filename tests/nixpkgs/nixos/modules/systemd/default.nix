# Units of systemd, and the folder of unit files that becomes /etc/systemd/system.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.systemd;
  unitOptions = import ./unit-options.nix { inherit lib; };
  unitModules = import ./unit-modules.nix { inherit config lib pkgs; };
  render = import ./render.nix { inherit config lib pkgs; };

  unitsOf = modules: description: mkOption {
    type = types.attrsOf (types.submodule modules);
    default = { };
    inherit description;
  };
  toUnits = suffix: text: lib.mapAttrs' (name: unit:
    lib.nameValuePair "${name}.${suffix}" (render.unitAttrs unit // { text = text name unit; }));
  section = header: attribute: _: unit: render.unitText unit "[${header}]\n${render.section unit.${attribute}}";
in
{
  options.systemd = {
    package = mkOption { type = types.package; default = pkgs.systemd; description = "The systemd that runs the machine."; };
    units = mkOption {
      type = types.attrsOf (types.submodule ({ name, config, ... }: {
        options = unitOptions.file // {
          text = mkOption { type = types.nullOr types.str; default = null; description = "The unit's text."; };
          unit = mkOption { internal = true; description = "The derivation that holds the file."; };
        };
        config.unit = lib.mkDefault (render.makeUnit name config);
      }));
      default = { };
      internal = true;
      description = "Unit files by name.";
    };
    services = unitsOf unitModules.service "Services.";
    targets = unitsOf unitModules.plain "Targets.";
    sockets = unitsOf unitModules.socket "Sockets.";
    timers = unitsOf unitModules.timer "Timers.";
    paths = unitsOf unitModules.path "Path units.";
    slices = unitsOf unitModules.slice "Slices.";
    mounts = mkOption {
      type = types.listOf (types.submodule unitModules.mount);
      default = [ ];
      description = "Mounts; their names come from `where`.";
    };
    packages = mkOption {
      type = types.listOf types.package;
      default = [ ];
      description = "Packages whose etc/systemd/system and lib/systemd/system hold units.";
    };
    defaultUnit = mkOption {
      type = types.str;
      default = "multi-user.target";
      description = "The unit that boot leads to.";
    };
    globalEnvironment = mkOption {
      type = types.attrsOf (types.nullOr (types.oneOf [ types.str types.path types.package ]));
      default = { };
      description = "Environment of all services.";
    };
    enableEmergencyMode = mkOption {
      type = types.bool;
      default = true;
      description = "Whether failed mounts at boot lead to emergency mode.";
    };
    extraConfig = mkOption {
      type = types.lines;
      default = "";
      description = "Lines for the [Manager] section of system.conf.";
    };
    settings.Manager = mkOption {
      type = types.attrsOf render.atomType;
      default = { };
      description = "Settings of the [Manager] section of system.conf.";
    };
    tmpfiles.rules = mkOption { type = types.listOf types.str; default = [ ]; description = "Lines of tmpfiles.d(5)."; };
  };

  config = {
    systemd.units = lib.mkMerge [
      (toUnits "service" render.serviceText cfg.services)
      (toUnits "target" (_: unit: render.unitText unit "") cfg.targets)
      (toUnits "socket" (_: unit: render.unitText unit (render.socketSection unit)) cfg.sockets)
      (toUnits "timer" (section "Timer" "timerConfig") cfg.timers)
      (toUnits "path" (section "Path" "pathConfig") cfg.paths)
      (toUnits "slice" (section "Slice" "sliceConfig") cfg.slices)
      (toUnits "mount" (section "Mount" "mountConfig")
        (lib.listToAttrs (map (m: lib.nameValuePair (render.escapePath m.where) m) cfg.mounts)))
    ];
    # `startAt` of a service is a timer of the same name.
    systemd.timers = lib.mapAttrs (_: service: {
      wantedBy = [ "timers.target" ];
      timerConfig.OnCalendar = service.startAt;
    }) (lib.filterAttrs (_: service: service.enable && service.startAt != [ ]) cfg.services);

    system.build.units = render.unitsFolder;
    environment.etc = {
      "systemd/system".source = config.system.build.units;
      "systemd/system.conf".text = "[Manager]\n${render.section cfg.settings.Manager}${cfg.extraConfig}";
      "tmpfiles.d/00-nixos.conf" = {
        enable = cfg.tmpfiles.rules != [ ];
        text = "# Made from systemd.tmpfiles.rules\n${lib.concatLines cfg.tmpfiles.rules}";
      };
    };

    warnings = lib.concatLists (lib.mapAttrsToList (name: service:
      lib.optional (service.serviceConfig.Type or "" == "oneshot" && lib.elem (service.serviceConfig.Restart or "no") [ "always" "on-success" ])
        "Service '${name}.service' with 'Type=oneshot' cannot have 'Restart=always' or 'Restart=on-success'") cfg.services);
  };
}
