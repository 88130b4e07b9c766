# The toplevel: one store path that is the system (nixpkgs:
# nixos/modules/system/activation/top-level.nix, switchable-system.nix).
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.system;

  failed = map (a: a.message) (builtins.filter (a: !a.assertion) config.assertions);
  checked =
    value:
    if failed != [ ] then
      throw "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (m: "- ${m}") failed}"
    else
      builtins.foldl' (rest: w: builtins.trace "warning: ${w}" rest) value config.warnings;

  # One script of all checks; the text of the message is NixOS's.
  preSwitchChecks = pkgs.writeShellScript "pre-switch-checks" (
    ''
      export PATH=${lib.makeBinPath [ pkgs.coreutils pkgs.gnugrep pkgs.gnused pkgs.gawk pkgs.jq ]}
      incoming=$1 action=$2
    ''
    + lib.concatStrings (
      lib.mapAttrsToList (name: text: ''
        if ! (
        ${text}
        ) >&2; then
          echo "Pre-switch check '${name}' failed" >&2
          exit 1
        fi
      '') cfg.preSwitchChecks
    )
  );

  systemd = config.systemd.package;

  # Values for the @names@ in the scripts; @out@ is known to the builder alone.
  values = {
    inherit (pkgs) bash;
    inherit systemd preSwitchChecks;
    inherit (cfg.nixos) distroId;
    inherit (cfg.build) installBootLoader;
    path = lib.makeBinPath (
      with pkgs;
      [
        coreutils
        findutils
        gnugrep
        gnused
        gawk
        util-linux
      ]
    );
  };
  substitute =
    from: to:
    "sed ${lib.concatStringsSep " " (lib.mapAttrsToList (n: v: "-e 's|@${n}@|${v}|g'") values)} -e \"s|@out@|$out|g\" ${from} > ${to}; chmod +x ${to}";

  bootspec = {
    "org.nixos.bootspec.v1" = {
      init = "@out@/init";
      initrd = "${cfg.build.initialRamdisk}/initrd";
      inherit (config.boot) kernelParams;
      kernel = "${cfg.build.kernel}/bzImage";
      label = "${cfg.nixos.distroName} ${cfg.nixos.codeName} ${cfg.nixos.label} (Linux ${config.boot.kernelPackages.kernel.version})";
      inherit (pkgs) system;
      toplevel = "@out@";
    };
    "org.nixos.specialisation.v1" = { };
  };

  build = pkgs.stdenv.mkDerivation (
    {
      name = "nixos-system-${cfg.name}-${cfg.nixos.label}";
      preferLocalBuild = true;
      allowSubstitutes = false;
      passAsFile = [ "extraDependencies" ];
      inherit (cfg) extraDependencies checks;
      buildCommand = ''
        mkdir -p $out/bin $out/specialisation
        ln -s ${cfg.build.kernel}/bzImage $out/kernel
        ln -s ${cfg.modulesTree} $out/kernel-modules
        ln -s ${cfg.build.initialRamdisk}/initrd $out/initrd
        ln -s ${systemd} $out/systemd
        ln -s ${cfg.build.etc}/etc $out/etc
        ln -s ${cfg.path} $out/sw
        printf %s ${lib.escapeShellArg (toString config.boot.kernelParams)} > $out/kernel-params
        printf %s ${lib.escapeShellArg cfg.nixos.label} > $out/nixos-version
        printf %s ${pkgs.system} > $out/system
        printf %s "systemd 2" > $out/init-interface-version
        cp "$extraDependenciesPath" $out/extra-dependencies
        sed "s|@out@|$out|g" ${cfg.build.activationScript} > $out/activate
        sed "s|@out@|$out|g" ${cfg.build.dryActivationScript} > $out/dry-activate
        chmod +x $out/activate $out/dry-activate
        ${substitute ./init.sh "$out/init"}
        sed "s|@out@|$out|g" ${pkgs.writeText "boot.json" (builtins.toJSON bootspec)} > $out/boot.json
        printf %s ${lib.escapeShellArg (builtins.toJSON cfg.switch.inhibitors)} > $out/switch-inhibitors
        ${lib.optionalString cfg.switch.enable (substitute ./switch-to-configuration.sh "$out/bin/switch-to-configuration")}
        ${lib.concatStrings (
          lib.mapAttrsToList (name: child: ''
            ln -s ${child.configuration.system.build.toplevel} $out/specialisation/${name}
          '') config.specialisation
        )}
        ${cfg.systemBuilderCommands}
        ${cfg.extraSystemBuilderCmds}
      '';
    }
    // cfg.systemBuilderArgs
  );
in
{
  system.build.toplevel = checked build;

  system.switch.inhibitors.dbus-implementation = lib.mkDefault "dbus";

  # A switch is refused when parts differ that only a reboot replaces (nixpkgs#473282).
  system.preSwitchChecks.switchInhibitors = ''
    case $action in switch | test) ;; *) exit 0 ;; esac
    current=/run/current-system/switch-inhibitors
    if [ ! -e "$current" ] || [ ! -e "$incoming/switch-inhibitors" ]; then exit 0; fi
    echo "Checking switch inhibitors..."
    differences=$(jq -rn --slurpfile old "$current" --slurpfile new "$incoming/switch-inhibitors" '
      $old[0] as $o | $new[0] as $n | $o | keys[] | select($n[.] != null and $n[.] != $o[.]) | "\(.) : \($o[.]) -> \($n[.])"')
    if [ -z "$differences" ]; then exit 0; fi
    echo "There are changes to critical components of the system:"
    echo
    echo "$differences"
    echo
    echo "Switching into this system is not recommended."
    echo "You probably want to run 'nixos-rebuild boot' and reboot your system instead."
    echo
    echo "If you really want to switch into this configuration directly, then"
    echo "you can set NIXOS_NO_CHECK=1 to ignore pre-switch checks."
    exit 1
  '';
}
