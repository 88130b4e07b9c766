# Users and groups. The activation (system/accounts.nix) makes them from these options.
{ config, lib, pkgs, utils, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.users;
  authorizedKeys = user: lib.concatMapStrings (key: key + "\n")
    (user.openssh.authorizedKeys.keys ++ map (file: lib.removeSuffix "\n" (builtins.readFile file)) user.openssh.authorizedKeys.keyFiles);
  named = default: mkOption { type = types.passwdEntry types.str; inherit default; description = "The name, as in /etc/passwd or /etc/group."; };
  text = type: mkOption { type = types.nullOr type; default = null; description = "As in passwd(5) and shadow(5)."; };
  flag = description: mkOption { type = types.bool; default = false; inherit description; };

  user = types.submodule ({ name, config, ... }: {
    options = {
      name = named name;
      enable = mkOption { type = types.bool; default = true; description = "Whether the user is there."; };
      description = mkOption { type = types.passwdEntry types.str; default = ""; description = "Full name."; };
      uid = text types.int;
      isNormalUser = flag "Whether this is a person: group `users`, a home in /home and a shell.";
      isSystemUser = flag "Whether this is a user for a service.";
      group = mkOption { type = types.passwdEntry types.str; default = ""; description = "Primary group."; };
      extraGroups = mkOption { type = types.listOf types.str; default = [ ]; description = "Further groups."; };
      home = mkOption { type = types.passwdEntry types.path; default = "/var/empty"; description = "Home folder."; };
      homeMode = mkOption {
        type = types.strMatching "[0-7]{1,5}";
        default = "700";
        description = "Mode of the home folder.";
      };
      createHome = flag "Whether the home folder is made.";
      useDefaultShell = flag "Whether the shell is users.defaultUserShell.";
      shell = mkOption {
        type = types.nullOr (types.either types.shellPackage (types.passwdEntry types.path));
        default = "/run/current-system/sw/bin/nologin";
        description = "Login shell.";
      };
      hashedPassword = text (types.passwdEntry types.str);
      initialHashedPassword = text (types.passwdEntry types.str);
      password = text types.str;
      initialPassword = text types.str;
      hashedPasswordFile = text types.str;
      packages = mkOption {
        type = types.listOf types.package;
        default = [ ];
        description = "Packages for this user; must be empty here.";
      };
      linger = flag "Must stay off: there is no user manager here.";
      openssh.authorizedKeys = {
        keys = mkOption {
          type = types.listOf types.singleLineStr;
          default = [ ];
          description = "Public keys that may log in.";
        };
        keyFiles = mkOption { type = types.listOf types.path; default = [ ]; description = "Files of such keys."; };
      };
    };
    config = lib.mkMerge [
      (lib.mkIf config.isNormalUser {
        group = lib.mkDefault "users";
        createHome = lib.mkDefault true;
        home = lib.mkDefault "/home/${config.name}";
        useDefaultShell = lib.mkDefault true;
      })
      (lib.mkIf config.useDefaultShell { shell = lib.mkDefault cfg.defaultUserShell; })
    ];
  });

  group = types.submodule ({ name, ... }: {
    options = {
      name = named name;
      gid = text types.int;
      members = mkOption {
        type = types.listOf (types.passwdEntry types.str);
        default = [ ];
        description = "Members besides those whose extraGroups name the group.";
      };
    };
  });
in
{
  options.users = {
    mutableUsers = mkOption { type = types.bool; default = true; description = "Whether users made by hand stay."; };
    allowNoPasswordLogin = flag "Whether a system that nobody can log in to is meant so.";
    defaultUserShell = mkOption {
      type = types.either types.path types.shellPackage;
      default = pkgs.bashInteractive;
      description = "Shell of people.";
    };
    users = mkOption { type = types.attrsOf user; default = { }; description = "Users."; };
    groups = mkOption { type = types.attrsOf group; default = { }; description = "Groups."; };
  };

  config = {
    environment.etc = lib.mapAttrs' (_: u: lib.nameValuePair "ssh/authorized_keys.d/${u.name}" {
      mode = "0444";
      text = authorizedKeys u;
    }) (lib.filterAttrs (_: u: u.enable && authorizedKeys u != "") cfg.users)
    // { shells.text = lib.concatMapStrings (s: "${utils.toShellPath s}\n") (config.environment.shells ++ [ "/bin/sh" ]); };

    assertions = lib.concatLists (lib.mapAttrsToList (name: u: [
      {
        assertion = u.isNormalUser != u.isSystemUser || u.uid == 0 || (u.uid != null && u.uid < 1000);
        message = "Exactly one of users.users.${name}.isSystemUser and users.users.${name}.isNormalUser must be set.";
      }
      {
        assertion = u.group != "";
        message = "users.users.${name}.group is unset. A group of its own is made with "
          + "users.users.${name}.group = \"${name}\"; users.groups.${name} = { };";
      }
      {
        assertion = u.packages == [ ];
        message = "users.users.${name}.packages: this <nixpkgs> has no packages per user; use environment.systemPackages.";
      }
      { assertion = !u.linger; message = "users.users.${name}.linger: this <nixpkgs> has no user manager."; }
    ]) cfg.users);
  };
}
