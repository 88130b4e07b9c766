# Logins: what PAM checks, and the environment that it gives every session, so
# that the tools of the system are in the PATH of `ssh machine command` whatever
# the login shell is (nixpkgs: nixos/modules/security/pam.nix).
{ config, lib, pkgs, ... }:
let
  path = [
    "/run/wrappers/bin"
    "@{HOME}/.nix-profile/bin"
    "/etc/profiles/per-user/@{PAM_USER}/bin"
    "/nix/var/nix/profiles/default/bin"
    "/run/current-system/sw/bin"
  ];

  environment = pkgs.writeText "pam-environment" ''
    PATH DEFAULT="${lib.concatStringsSep ":" path}"
  '';

  service =
    {
      rootOk ? false,
      session ? true,
    }:
    {
      text = ''
        account required pam_unix.so
        ${lib.optionalString rootOk "auth sufficient pam_rootok.so"}
        auth sufficient pam_unix.so likeauth try_first_pass
        auth required pam_deny.so
        password sufficient pam_unix.so nullok yescrypt
        session required pam_env.so conffile=/etc/pam/environment readenv=0
        session required pam_unix.so
        ${lib.optionalString session "session optional pam_systemd.so"}
      '';
    };
in
{
  environment.etc = {
    "pam/environment".source = environment;
    "pam.d/sshd" = service { };
    "pam.d/login" = service { };
    "pam.d/systemd-user" = service { };
    "pam.d/su" = service { rootOk = true; session = false; };
    "pam.d/runuser" = service { rootOk = true; session = false; };
    "pam.d/sudo" = lib.mkIf config.security.sudo.enable (service { session = false; });
    "pam.d/doas" = lib.mkIf config.security.doas.enable (service { session = false; });
    "pam.d/other".text = ''
      auth required pam_deny.so
      account required pam_deny.so
      password required pam_deny.so
      session required pam_deny.so
    '';
  };
}
