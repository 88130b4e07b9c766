# Packages of all users (/run/current-system/sw) and their environment.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.environment;
  variable = types.oneOf [ (types.listOf (types.oneOf [ types.int types.str types.path ])) types.int types.str types.path ];
in
{
  options = {
    environment = {
      systemPackages = mkOption {
        type = types.listOf types.package;
        default = [ ];
        description = "Packages in everybody's PATH.";
      };
      defaultPackages = mkOption {
        type = types.listOf types.package;
        default = [ ];
        description = "Packages that a system can do without.";
      };
      pathsToLink = mkOption {
        type = types.listOf types.str;
        default = [ ];
        description = "Folders of the packages that are linked into /run/current-system/sw.";
      };
      extraSetup = mkOption {
        type = types.lines;
        default = "";
        description = "Shell commands run at the end of building it.";
      };
      variables = mkOption {
        type = types.attrsOf variable;
        default = { };
        description = "Environment variables of login shells.";
      };
      sessionVariables = mkOption {
        type = types.attrsOf variable;
        default = { };
        description = "Environment variables of sessions; here the same as `variables`.";
      };
      shellAliases = mkOption {
        type = types.attrsOf (types.nullOr types.str);
        default = { };
        description = "Aliases of interactive shells.";
      };
      shellInit = mkOption { type = types.lines; default = ""; description = "Commands of every shell."; };
      loginShellInit = mkOption { type = types.lines; default = ""; description = "Commands of login shells."; };
      interactiveShellInit = mkOption { type = types.lines; default = ""; description = "Commands of interactive shells."; };
      shells = mkOption {
        type = types.listOf (types.either types.shellPackage types.path);
        default = [ ];
        description = "Shells that users may choose (/etc/shells).";
      };
      binsh = mkOption {
        type = types.path;
        default = "${pkgs.bash}/bin/sh";
        internal = true;
        description = "What /bin/sh points to.";
      };
      usrbinenv = mkOption {
        type = types.path;
        default = "${pkgs.coreutils}/bin/env";
        internal = true;
        description = "What /usr/bin/env points to.";
      };
    };
    system.path = mkOption { internal = true; description = "The packages of the system as one tree."; };
  };

  config = {
    environment.systemPackages = with pkgs; [
      bash coreutils findutils gawk gnugrep gnused gzip util-linux systemd openssh zstd procps iproute2
    ];
    environment.pathsToLink = [ "/bin" "/sbin" "/etc/xdg" "/share/fish" "/share/bash-completion" "/lib/systemd" ];
    system.path = pkgs.buildEnv {
      name = "system-path";
      paths = cfg.systemPackages ++ cfg.defaultPackages;
      inherit (cfg) pathsToLink;
      postBuild = cfg.extraSetup;
    };
  };
}
