# Users and groups, their place in the activation, and programs with the setuid bit.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  cfg = config.users;
  users = builtins.filter (u: u.enable) (lib.attrValues cfg.users);

  text = value: if value == null then "" else toString value;

  userLine =
    user:
    lib.concatStringsSep ":" [
      user.name
      (text user.uid)
      user.group
      (text user.home)
      (lib.optionalString user.createHome user.homeMode)
      (if user.shell == null then "/run/current-system/sw/bin/nologin" else utils.toShellPath user.shell)
      (text user.hashedPassword)
      user.description
    ];

  members =
    group: lib.unique (group.members ++ map (u: u.name) (builtins.filter (u: lib.elem group.name u.extraGroups) users));
  groupLine = group: "${group.name}:${text group.gid}:${lib.concatStringsSep "," (members group)}";

  table = name: lines: pkgs.writeText name (lib.concatMapStrings (line: line + "\n") lines);

  wrapped =
    lib.optional config.security.sudo.enable "${pkgs.sudo}/bin/sudo"
    ++ lib.optional config.security.doas.enable "${pkgs.doas}/bin/doas"
    ++ [ "${pkgs.su}/bin/su" ];

  # Groups that systemd and logins expect, with NixOS's numbers (nixos/modules/misc/ids.nix).
  groups = {
    root = 0;
    wheel = 1;
    kmem = 2;
    tty = 3;
    messagebus = 4;
    disk = 6;
    audio = 17;
    lp = 20;
    cdrom = 24;
    tape = 25;
    video = 26;
    dialout = 27;
    utmp = 29;
    adm = 55;
    systemd-journal = 62;
    keys = 96;
    users = 100;
    input = 174;
    kvm = 302;
    render = 303;
    shadow = 318;
    nogroup = 65534;
  };
in
{
  users.groups = lib.mapAttrs (_: gid: { inherit gid; }) groups;
  users.users = {
    root = {
      uid = 0;
      description = "System administrator";
      home = "/root";
      group = "root";
      shell = lib.mkDefault cfg.defaultUserShell;
    };
    messagebus = {
      uid = 4;
      isSystemUser = true;
      description = "D-Bus system message bus daemon user";
      group = "messagebus";
    };
    nobody = {
      uid = 65534;
      isSystemUser = true;
      description = "Unprivileged account (don't use!)";
      group = "nogroup";
    };
  };

  environment.etc."nsswitch.conf".text = ''
    passwd: files systemd
    group: files systemd
    shadow: files
    hosts: files myhostname dns
    networks: files
    services: files
    protocols: files
  '';

  system.activationScripts = {
    users.text = ''
      echo "setting up users and groups..."
      source ${./setup-users.sh}
      setup_users ${table "users" (map userLine users)} ${table "groups" (map groupLine (lib.attrValues cfg.groups))}
    '';
    # Scripts of users may name NixOS's second part.
    groups.text = "";
    groups.deps = [ "users" ];
    wrappers = {
      deps = [ "users" ];
      text = ''
        mkdir -m 0755 -p /run/wrappers/bin
        for program in ${toString wrapped}; do
            install -m 4755 "$program" "/run/wrappers/bin/''${program##*/}.tmp"
            mv "/run/wrappers/bin/''${program##*/}.tmp" "/run/wrappers/bin/''${program##*/}"
        done
      '';
    };
  };
}
