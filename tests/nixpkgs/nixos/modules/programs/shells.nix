# Shells and what they read at start.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  env = config.environment;

  setting = name: value: "export ${name}=${lib.escapeShellArg (lib.concatMapStringsSep ":" toString (lib.toList value))}\n";
  setEnvironment = pkgs.writeText "set-environment" (
    lib.concatStrings (lib.mapAttrsToList setting (env.sessionVariables // env.variables)) + ''
      export PATH="/run/wrappers/bin:$HOME/.nix-profile/bin:/nix/var/nix/profiles/default/bin:/run/current-system/sw/bin"
      export __NIXOS_SET_ENVIRONMENT_DONE=1
    '');
  once = ''if [ -z "$__NIXOS_SET_ENVIRONMENT_DONE" ]; then . ${setEnvironment}; fi'';
  aliases = lib.concatStrings (lib.mapAttrsToList (name: value:
    lib.optionalString (value != null) "alias -- ${name}=${lib.escapeShellArg value}\n") env.shellAliases);
in
{
  options.programs = {
    bash.enable = mkOption { type = types.bool; default = true; description = "Whether bash is set up."; };
    bash.completion.enable = mkOption { type = types.bool; default = true; description = "Stored only."; };
    bash.interactiveShellInit = mkOption {
      type = types.lines;
      default = "";
      description = "Commands of interactive bashes.";
    };
    fish.enable = lib.mkEnableOption "fish";
    fish.interactiveShellInit = mkOption {
      type = types.lines;
      default = "";
      description = "Commands of interactive fishes.";
    };
    command-not-found.enable = mkOption { type = types.bool; default = false; description = "Stored only."; };
    nano.enable = mkOption { type = types.bool; default = false; description = "Stored only."; };
  };

  config = {
    system.build.setEnvironment = setEnvironment;
    environment.systemPackages = lib.optional config.programs.fish.enable pkgs.fish;
    environment.shells = [ "/run/current-system/sw/bin/bash" "/run/current-system/sw/bin/sh" ]
      ++ lib.optional config.programs.fish.enable "/run/current-system/sw/bin/fish";
    environment.etc = {
      profile.text = ''
        ${once}
        ${env.shellInit}
        ${env.loginShellInit}
        if [ -n "$PS1" ] && [ -n "$BASH_VERSION" ]; then . /etc/bashrc; fi
      '';
      bashrc.text = ''
        ${once}
        if [ -n "$PS1" ]; then
            PS1='[\u@\h:\w]\$ '
            ${aliases}
            ${env.interactiveShellInit}
            ${config.programs.bash.interactiveShellInit}
        fi
      '';
      set-environment.source = setEnvironment;
      "fish/config.fish" = lib.mkIf config.programs.fish.enable {
        text = ''
          set -gx PATH /run/wrappers/bin $HOME/.nix-profile/bin /nix/var/nix/profiles/default/bin /run/current-system/sw/bin
          if status is-interactive
            ${config.programs.fish.interactiveShellInit}
          end
        '';
      };
    };
  };
}
