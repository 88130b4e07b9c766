# Becoming root: sudo, doas, certificates of authorities.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  sudo = config.security.sudo;
  doas = config.security.doas;
in
{
  options.security = {
    sudo = {
      enable = mkOption { type = types.bool; default = true; description = "Whether sudo is there."; };
      wheelNeedsPassword = mkOption {
        type = types.bool;
        default = true;
        description = "Whether members of wheel give their password.";
      };
      extraConfig = mkOption { type = types.lines; default = ""; description = "Lines for sudoers."; };
    };
    doas = {
      enable = lib.mkEnableOption "doas";
      wheelNeedsPassword = mkOption {
        type = types.bool;
        default = true;
        description = "Whether members of wheel give their password.";
      };
      extraConfig = mkOption { type = types.lines; default = ""; description = "Lines for doas.conf."; };
    };
    pki.certificateFiles = mkOption {
      type = types.listOf types.path;
      default = [ ];
      description = "Files of certificates to trust.";
    };
    pki.certificates = mkOption { type = types.listOf types.str; default = [ ]; description = "Certificates to trust."; };
  };

  config = {
    environment.etc = {
      sudoers = lib.mkIf sudo.enable {
        mode = "0440";
        text = ''
          Defaults env_keep+=SSH_AUTH_SOCK
          Defaults secure_path="/run/wrappers/bin:/run/current-system/sw/bin"
          root ALL=(ALL:ALL) SETENV: ALL
          %wheel ALL=(ALL:ALL) ${lib.optionalString (!sudo.wheelNeedsPassword) "NOPASSWD: "}SETENV: ALL
          ${sudo.extraConfig}'';
      };
      "doas.conf" = lib.mkIf doas.enable {
        mode = "0400";
        text = ''
          permit nopass keepenv root
          permit ${if doas.wheelNeedsPassword then "persist" else "nopass"} setenv { SSH_AUTH_SOCK } :wheel
          ${doas.extraConfig}'';
      };
      "ssl/certs/ca-certificates.crt".source = pkgs.runCommandLocal "ca-certificates.crt" { extra = config.security.pki.certificates; } ''
        cat ${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt ${toString config.security.pki.certificateFiles} > $out
        echo "$extra" >> $out
      '';
      "ssl/certs/ca-bundle.crt".source = "/etc/ssl/certs/ca-certificates.crt";
    };
    environment.systemPackages = lib.optional sudo.enable pkgs.sudo ++ lib.optional doas.enable pkgs.doas;
  };
}
