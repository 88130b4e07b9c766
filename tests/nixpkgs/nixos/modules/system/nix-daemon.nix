# Nix's daemon for users other than root, and the users its builders run as
# (nixpkgs: nixos/modules/services/system/nix-daemon.nix). Root's commands open
# the store themselves, as on NixOS.
{ lib, pkgs, ... }:
let
  builders = 32;
in
{
  systemd.sockets.nix-daemon = {
    description = "Nix Daemon Socket";
    wantedBy = [ "sockets.target" ];
    before = [ "multi-user.target" ];
    socketConfig.ListenStream = "/nix/var/nix/daemon-socket/socket";
  };
  systemd.services.nix-daemon = {
    description = "Nix Daemon";
    requires = [ "nix-daemon.socket" ];
    path = [
      pkgs.nix
      pkgs.util-linux
      pkgs.openssh
      pkgs.gzip
    ];
    unitConfig.ConditionPathIsReadWrite = "/nix/var/nix/daemon-socket";
    serviceConfig = {
      ExecStart = "@${pkgs.nix}/bin/nix-daemon nix-daemon --daemon";
      KillMode = "process";
      LimitNOFILE = 1048576;
      TasksMax = 1048576;
    };
    # Builds go on while a switch restarts it, as on NixOS.
    restartIfChanged = false;
  };
  systemd.tmpfiles.rules = [ "d /nix/var/nix/daemon-socket 0755 root root - -" ];

  users.groups.nixbld.gid = 30000;
  users.users = builtins.listToAttrs (
    map (number: {
      name = "nixbld${toString number}";
      value = {
        description = "Nix build user ${toString number}";
        uid = 30000 + number;
        group = "nixbld";
        extraGroups = [ "nixbld" ];
        isSystemUser = true;
      };
    }) (lib.range 1 builders)
  );

  system.activationScripts.nix = {
    deps = [ "users" ];
    text = ''
      mkdir -m 0755 -p /nix/var/nix/{gcroots,profiles,temproots,userpool,db} /nix/var/log/nix/drvs
      mkdir -m 1777 -p /nix/var/nix/{gcroots,profiles}/per-user
      ln -sfn /nix/var/nix/profiles /nix/var/nix/gcroots/profiles
    '';
  };
}
