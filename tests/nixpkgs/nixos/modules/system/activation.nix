# The activation script: what must be done at boot and at each switch before
# systemd's units (nixpkgs: nixos/modules/system/activation/activation-script.nix).
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  scripts = config.system.activationScripts;

  # Names in an order in which each comes after those it depends on.
  order =
    let
      visit =
        path: done: name:
        if builtins.elem name done then
          done
        else if builtins.elem name path then
          throw "system.activationScripts: ${name} depends on itself (${lib.concatStringsSep ", " path})"
        else if !(scripts ? ${name}) then
          throw "system.activationScripts: ${lib.last path} depends on ${name}, which does not exist"
        else
          builtins.foldl' (visit (path ++ [ name ])) done scripts.${name}.deps ++ [ name ];
    in
    builtins.foldl' (visit [ ]) [ ] (builtins.attrNames scripts);

  snippet = name: ''
    #### Activation script snippet ${name}:
    _localstatus=0
    ${scripts.${name}.text}

    if (( _localstatus > 0 )); then
      printf "Activation script snippet '%s' failed (%s)\n" "${name}" "$_localstatus"
    fi
  '';

  path = lib.makeBinPath (
    with pkgs;
    [
      coreutils
      findutils
      gnugrep
      gnused
      getent
      hostname
      shadow
      util-linux
    ]
  );

  script = dry: names: ''
    #!${pkgs.bash}/bin/bash
    systemConfig='@out@'
    export PATH=${path}

    _status=0
    trap "_status=1 _localstatus=\$?" ERR
    umask 0022

    ${lib.concatMapStrings snippet names}
    ${lib.optionalString (!dry) ''
      # Make this configuration the current configuration.
      ln -sfn "$(readlink -f "$systemConfig")" /run/current-system
      # Prevent the current configuration from being garbage-collected.
      mkdir -p /nix/var/nix/gcroots
      ln -sfn /run/current-system /nix/var/nix/gcroots/current-system
    ''}
    exit $_status
  '';

  # A link that is there at any moment.
  link = target: name: ''
    mkdir -p ${builtins.dirOf name}
    ln -sfn ${target} ${name}.tmp && mv -T ${name}.tmp ${name}
  '';
in
{
  imports = [
    ./accounts.nix
    ./nix-daemon.nix
    ./pam.nix
  ];

  system.build.activationScript = pkgs.writeText "activate" (script false order);
  system.build.dryActivationScript = pkgs.writeText "dry-activate" (
    script true (builtins.filter (name: scripts.${name}.supportsDryActivation) order)
  );

  system.activationScripts = {
    binsh = link config.environment.binsh "/bin/sh";
    usrbinenv = link config.environment.usrbinenv "/usr/bin/env";
    var = ''
      mkdir -m 0755 -p /var/log /var/lib /var/db /var/empty /var/cache
      mkdir -m 1777 -p /var/tmp
      # Where Debian's sshd locks itself in; NixOS's uses /var/empty.
      mkdir -m 0755 -p /run/sshd
    '';
    etc = {
      deps = [ "users" ];
      text = ''
        echo "setting up /etc..."
        source ${./setup-etc.sh}
        setup_etc ${config.system.build.etc}/etc
      '';
    };
    hostname = lib.mkIf (config.networking.hostName != "") "hostname ${lib.escapeShellArg config.networking.hostName}";
  };

  # What NixOS's build of systemd has compiled in: a unit that sets no PATH finds systemd's programs alone (nixpkgs#262169).
  systemd.settings.Manager.DefaultEnvironment = "PATH=${config.systemd.package}/bin/";

  # Without it, a failed mount at boot is only logged (nixpkgs: nixos/modules/system/boot/systemd.nix).
  systemd.units = lib.mkIf (!config.systemd.enableEmergencyMode) {
    "emergency.target".enable = false;
    "emergency.service".enable = false;
  };

  # Nothing but the point where what runs before sysinit.target is started again in a switch.
  systemd.targets.sysinit-reactivation.description = "Reactivate sysinit units";
}
